#!/bin/sh
# Runs each fuzzer for some seconds and prints a line of counts per fuzzer.
# usage: run.sh DIR SECONDS JOBS NAME...
# New inputs stay in DIR/corpus; a finding is left there as crash-*, named, and
# fails the run. Copy it to tests/fuzz/corpus/NAME with the fix.
set -eu
dir=$1 seconds=$2 jobs=$3
shift 3
here=$(dirname "$0")
one() {
    name=$1
    mkdir -p "$dir/corpus/$name" "$dir/finds/$name"
    seeds=$here/corpus/$name
    [ -d "$seeds" ] || seeds=
    log=$dir/$name.log
    if "$dir/$name" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=65536 \
        -print_final_stats=1 -artifact_prefix="$dir/finds/$name/" \
        "$dir/corpus/$name" ${seeds:+"$seeds"} >"$log" 2>&1; then
        echo "$name: $(sed -n 's/^stat::number_of_executed_units: *//p' "$log") runs in $seconds s," \
            "$(find "$dir/corpus/$name" -type f | wc -l) inputs, no finding"
    else
        echo "$name: FINDING, see $log"
        tail -n 40 "$log"
        return 1
    fi
}
fail=0
if [ "${1-}" = --one ]; then
    one "$2"
    exit
fi
printf '%s\n' "$@" | xargs -P "$jobs" -n 1 "$0" "$dir" "$seconds" 1 --one || fail=1
exit $fail
