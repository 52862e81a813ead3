#!/bin/sh
# Installs what Fieldgate needs from Debian 12's own archive, by name.
#
# usage: deploy/deps.sh SET...     build, run, test, lint, bench; default: build run
#
# Does nothing, and asks for nothing, when all of it is there.
set -eu

# Each package and what for:
build='make gcc libc6-dev python3 python3-yaml
    libnng-dev libcjson-dev liblmdb-dev libsodium-dev libcivetweb-dev libssl-dev
    libpaho-mqtt-dev libmodbus-dev libarchive-dev libsystemd-dev libcurl4-openssl-dev libhpdf-dev'
# the broker and the clients of the six-step walk; the font of the security report
run='mosquitto mosquitto-clients curl fonts-dejavu-core'
# unit tests; peers that share no code with us; certificates and TLS versions; namespaces;
# pgrep and the kill that units call; systemd's own judgement of units and users, and a machine
# that it boots; schemas; a scanner of TLS servers; the text and pages of PDF files and their font;
# manual pages; a Modbus peer that tests/fakes/npm pins
test='libcmocka-dev mosquitto mosquitto-clients openssl curl util-linux mount procps systemd
    systemd-container sslscan poppler-utils fonts-dejavu-core groff-base man-db
    python3 python3-hypothesis python3-pymodbus python3-serial python3-serial-asyncio python3-paho-mqtt
    python3-jsonschema npm'
lint='clang clang-tidy cppcheck libclang-rt-14-dev pyflakes3'
bench='wrk nginx-light mosquitto python3-paho-mqtt python3-jsonschema procps'

die() {
    echo "deps: $*" >&2
    exit 1
}

[ $# -gt 0 ] || set -- build run
wanted=
for set in "$@"; do
    case $set in
    build) wanted="$wanted $build" ;;
    run) wanted="$wanted $run" ;;
    test) wanted="$wanted $test" ;;
    lint) wanted="$wanted $lint" ;;
    bench) wanted="$wanted $bench" ;;
    *) die "no set '$set': build, run, test, lint, bench" ;;
    esac
done

installed() {
    dpkg-query -W -f='${db:Status-Status}\n' "$1" 2>/dev/null | grep -qx installed
}
command -v dpkg-query >/dev/null 2>&1 || die "this is not a Debian system. Fieldgate builds on" \
    "Debian 12; elsewhere install by hand: $(echo $wanted)"

missing=
for package in $wanted; do
    case " $missing " in *" $package "*) continue ;; esac
    # any nginx and any npm will do
    case $package in
    nginx-light) ! command -v /usr/sbin/nginx >/dev/null 2>&1 || continue ;;
    npm) ! command -v npm >/dev/null 2>&1 || continue ;;
    esac
    installed "$package" || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

version=$(. /etc/os-release 2>/dev/null && echo "${ID:-unknown} ${VERSION_ID:-}") || version=unknown
[ "$version" = "debian 12" ] || die "this is '$version', not Debian 12, and these are missing:$missing"

as_root=
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null 2>&1 || die "missing:$missing
deps: no root and no sudo here. As root run: apt-get install --no-install-recommends$missing"
    as_root=sudo
fi
echo "deps: installing:$missing"
apt() {
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y \
        -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 "$@"
}
apt update || die "apt-get update failed"
apt install --no-install-recommends $missing || die "could not install:$missing"
