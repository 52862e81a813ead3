#!/bin/bash
# Sets up, builds and runs the whole suite on the bench profile: what `make run`
# calls. Ctrl-C stops all of it; a second start carries on from the state
# directory. Needs no root once the packages are there, and no systemd.
#
# Options, from the environment (make run NAME=value):
#   STATE       directory of all state and logs        (./state)
#   HTTPS_PORT  HTTPS, all addresses, unless configured otherwise  (8443)
#   HTTP_PORT   plain HTTP, 127.0.0.1                  (59000)
#   REDIRECT_PORT  plain HTTP that leads to HTTPS      (8442)
#   MQTT_PORT   the broker, 127.0.0.1                  (18830)
#   PLANT_PORT  the demo plant (Modbus TCP), 127.0.0.1 (15020)
set -u
cd "$(dirname "$0")/.."
STATE=${STATE:-$PWD/state}
HTTPS_PORT=${HTTPS_PORT:-8443}
HTTP_PORT=${HTTP_PORT:-59000}
REDIRECT_PORT=${REDIRECT_PORT:-8442}
MQTT_PORT=${MQTT_PORT:-18830}
PLANT_PORT=${PLANT_PORT:-15020}
BUILD=${BUILD:-build/release}

die() {
    echo "run: $*" >&2
    exit 1
}
for name in HTTPS_PORT HTTP_PORT REDIRECT_PORT MQTT_PORT PLANT_PORT; do
    [[ ${!name} =~ ^[0-9]{1,5}$ && ${!name} -ge 1 && ${!name} -le 65535 ]] ||
        die "$name=${!name} is no port"
done

[[ $STATE =~ [[:space:]] ]] && die "there is a blank in '$STATE': make run STATE=/some/other/place"

deploy/deps.sh build run || exit 1
MOSQUITTO=$(PATH=$PATH:/usr/sbin command -v mosquitto) || die "no mosquitto"
echo "run: building"
mkdir -p "$(dirname "$BUILD")" || die "cannot make $BUILD"
${MAKE:-make} --no-print-directory -j"$(nproc)" B="$BUILD" programs >"$BUILD.log" 2>&1 || {
    tail -n 40 "$BUILD.log" >&2
    die "the build failed, see $BUILD.log"
}

umask 027
mkdir -p "$STATE/log" || die "cannot make $STATE"
STATE=$(cd "$STATE" && pwd)
exec 9>"$STATE/lock"
flock -n 9 || die "another run uses $STATE (or choose STATE=...)"
# Sockets want a short path, whatever the state directory is called.
# (After su, XDG_RUNTIME_DIR may be that of somebody else.)
place=${XDG_RUNTIME_DIR:-/tmp}
[ -w "$place" ] || place=/tmp
RUN=$(mktemp -d "$place/fieldgate.XXXXXX") || die "cannot make a run directory"
mkdir -p "$RUN/bus" "$RUN/spool"

busy() {
    (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}
for name in HTTPS_PORT HTTP_PORT REDIRECT_PORT MQTT_PORT PLANT_PORT; do
    busy "${!name}" && { rm -rf "$RUN"; die "port ${!name} is in use: make run $name=..."; }
done

cat >"$STATE/mosquitto.conf" <<EOC
# The bench broker: this machine only, nobody signs in, nothing is kept.
listener $MQTT_PORT 127.0.0.1
allow_anonymous true
persistence false
log_dest stderr
user $(id -un)
EOC

# What is built is what runs: PUT /system/fim tells when that changes meanwhile.
deploy/manifest.sh "" "$PWD/$BUILD/bin" "$PWD/$BUILD/lib" >"$STATE/manifest" ||
    die "cannot make $STATE/manifest"

suite="--profile bench --state $STATE --run $RUN"
declare -A argv=(
    [mosquitto]="$MOSQUITTO -c $STATE/mosquitto.conf"
    [demoplant]="$BUILD/bin/demoplant --port $PLANT_PORT"
    [auditd]="$BUILD/bin/auditd $suite --set manifest=$STATE/manifest"
    [authd]="$BUILD/bin/authd $suite"
    [tagd]="$BUILD/bin/tagd $suite"
    [modbusd]="$BUILD/bin/modbusd $suite"
    [cloudd]="$BUILD/bin/cloudd $suite"
    [sysd]="$BUILD/bin/sysd $suite"
    [iod]="$BUILD/bin/iod $suite"
    [demoline]="$BUILD/bin/demoplant --serial $STATE/iod/dev/line0"
    [gateway]="$BUILD/bin/gateway $suite --set https-port=$HTTPS_PORT --set http-port=$HTTP_PORT --set redirect-port=$REDIRECT_PORT"
)
order=(mosquitto demoplant auditd authd tagd modbusd cloudd sysd iod demoline gateway)
declare -A pid_of name_of since
stopping=

# Each in a session of its own, so that Ctrl-C reaches only us and we stop them
# in order; and told to end should we be killed.
start() {
    local name=$1
    read -ra words <<<"${argv[$name]}"
    setpriv --pdeathsig TERM setsid "${words[@]}" </dev/null >>"$STATE/log/$name.log" 2>&1 9>&- &
    pid_of[$name]=$!
    name_of[$!]=$name
    since[$name]=$SECONDS
}

# stop_all [CODE]
stop_all() {
    local code=${1:-0}
    stopping=yes
    trap '' INT TERM HUP
    echo
    echo "run: stopping"
    for ((i = ${#order[@]} - 1; i >= 0; i--)); do
        local pid=${pid_of[${order[i]}]:-}
        [ -n "$pid" ] || continue
        kill -TERM "$pid" 2>/dev/null
        for ((n = 0; n < 100; n++)); do
            kill -0 "$pid" 2>/dev/null || break
            sleep 0.1
        done
        kill -KILL "$pid" 2>/dev/null && echo "run: ${order[i]} had to be killed"
        wait "$pid" 2>/dev/null
    done
    rm -rf "$RUN"
    echo "run: stopped; state is in $STATE"
    exit "$code"
}
trap stop_all INT TERM HUP

for name in "${order[@]}"; do start "$name"; done

answers() { # a sign-in without a name: authd refuses it, so both are there
    [ "$(curl -s --noproxy '*' -o /dev/null -w '%{http_code}' --max-time 2 -d '{}' \
        "http://127.0.0.1:$HTTP_PORT/api/v1/auth")" = 400 ]
}
for ((n = 0; n < 200; n++)); do
    answers && break
    for name in "${order[@]}"; do
        kill -0 "${pid_of[$name]}" 2>/dev/null && continue
        echo "run: $name ended at once; the end of $STATE/log/$name.log:" >&2
        tail -n 5 "$STATE/log/$name.log" >&2
        stop_all 1
    done
    sleep 0.1
done
answers || { echo "run: the gateway does not answer, see $STATE/log" >&2; stop_all 1; }

# PUT /system/httpserver may have set another port, or turned the redirect off.
read -r https_port redirect < <(
    sed -n 's/.*https: setting in force port=\([0-9]*\) redirect=\([01]\).*/\1 \2/p' \
        "$STATE/log/gateway.log" | tail -n 1
)
https_port=${https_port:-$HTTPS_PORT} # the disk was full
leads="plain HTTP leads nowhere: the redirect is off"
[ "$redirect" = 1 ] && leads="http://$(hostname):$REDIRECT_PORT leads there"

A=http://127.0.0.1:$HTTP_PORT/api/v1
cat <<EOT

Fieldgate runs (bench profile).

  from outside     https://$(hostname):$https_port/api/v1   certificate made at first start: curl -k
                   $leads
  on this machine  $A
  documentation    https://$(hostname):$https_port/api/docs
  broker           127.0.0.1:$MQTT_PORT        demo plant (Modbus TCP)  127.0.0.1:$PLANT_PORT
  serial ports     P1 with a demo plant on its line (Modbus RTU, unit 1), P2 with $STATE/iod/dev/line1 at its other end
  state and logs   $STATE

Sign in. The account is admin, its first password admin@123; that one only lets you set your own:

  A=$A
  sign_in() { curl -s \$A/auth -d "{\"name\":\"admin\",\"password\":\"\$1\"}" | sed 's/.*"token":"\([^"]*\)".*/\1/'; }
  T=\$(sign_in 'admin@123'); curl -s -X PUT \$A/users/me/password -H "Authorization: Bearer \$T" -d '{"newPassword":"Plant-floor-7"}'
  T=\$(sign_in 'Plant-floor-7'); H="Authorization: Bearer \$T"

Then, once a device is configured (README.md, "The walk"):

  list tags           curl -s -H "\$H" \$A/tags/list
  follow them live    curl -sN -H "\$H" "\$A/tags/monitor/modbus_tcp_master/plant?onChanged"
  write a set-point   curl -s -X PUT -H "\$H" \$A/tags/access/modbus_tcp_master/plant/setpoint -d '{"dataType":"uint16","dataValue":42}'
  watch the broker    mosquitto_sub -p $MQTT_PORT -t '#' -v

Ctrl-C stops everything.
EOT

# Whatever ends while we run is started again; what ends at once, every 5 s.
while [ -z "$stopping" ]; do
    wait -n -p gone
    code=$?
    [ -n "${gone:-}" ] || continue
    name=${name_of[$gone]:-}
    [ -n "$name" ] && [ "${pid_of[$name]}" = "$gone" ] || continue
    echo "run: $name ended ($code), starting it again; log: $STATE/log/$name.log"
    if ((SECONDS - since[$name] < 3)); then sleep 5; else sleep 0.2; fi
    start "$name"
done
