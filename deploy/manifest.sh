#!/bin/sh
# Prints the manifest of installed files that auditd checks them against
# (services/auditd/fim.h): kind, mode, SHA-256 and path of each.
#
# usage: deploy/manifest.sh ROOT PATH...
#
# ROOT is where the files are now, PATH where they will be: a directory that is
# all ours (it and what is in it) or a file. A file MANIFEST is left out: it is
# where this goes. What a manifest cannot say fails the whole: a path that is
# not there, a link or a pipe, a name with a line break.
set -eu
export LC_ALL=C

die() {
    echo "manifest.sh: $*" >&2
    exit 1
}
line_break='
'

root=$1
shift
# A find that fails ends this here: in a pipeline nobody would hear of it.
found=$(for path in "$@"; do
    case $path in *"$line_break"*) die "a line break in $path" ;; esac
    find "$root$path" -name "*$line_break*" -printf 'a line break in a name of %h\n' \
        -o \( -type d -o ! -name MANIFEST \) -printf '%y %m %p\n' || exit
done)
echo "fieldgate-manifest 1"
printf '%s\n' "$found" | sort | while IFS= read -r line; do
    kind=${line%% *} rest=${line#* }
    mode=${rest%% *} place=${rest#* }
    path=${place#"$root"}
    case $kind in
    d) echo "d $mode $path" ;;
    f)
        hash=$(sha256sum <"$place")
        echo "f $mode ${hash%% *} $path"
        ;;
    *) die "neither a file nor a directory that can be listed: $line" ;;
    esac
done
