#!/bin/sh
# Prints the manifest of installed files that auditd checks them against
# (services/auditd/fim.h): kind, mode, SHA-256 and path of each.
#
# usage: deploy/manifest.sh ROOT PATH...
#
# ROOT is where the files are now, PATH where they will be: a directory that is
# all ours (it and what is in it) or a file. A file MANIFEST is left out: it is
# where this goes.
set -eu

root=$1
shift
echo "fieldgate-manifest 1"
for path in "$@"; do
    find "$root$path" \( -type d -printf 'd %m - %p\n' \) -o \
        \( ! -name MANIFEST -printf 'f %m %p\n' \)
done | LC_ALL=C sort | while read -r kind mode place; do
    case $kind in
    d) echo "d $mode ${place#"- $root"}" ;;
    f)
        hash=$(sha256sum <"$place")
        echo "f $mode ${hash%% *} ${place#"$root"}"
        ;;
    esac
done
