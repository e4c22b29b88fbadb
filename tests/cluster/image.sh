#!/usr/bin/env bash
# The image for real: build docker/Dockerfile, let three containers of it form a cluster, train, kill one on the way, get it back.
#
#   tests/cluster/image.sh                 builds on Debian from debootstrap (no registry needed), 10 to 20 minutes, 15 GB
#   IMAGE=localhost/distgan:ci tests/cluster/image.sh                     with an image that lies in $STORE already
#
# Needs root, iproute2, and: apt-get install --no-install-recommends buildah podman runc debootstrap
# BUILD_OPTIONS and PIP_EXTRA go to the build (a mirror, a certificate); STORE is where images are kept.
set -euo pipefail
cd "$(dirname "$0")/../.."

store=${STORE:-/var/tmp/distgan-images}
work=$(mktemp -d /tmp/dgi.XXXX)
buildah="buildah --root $store/graph --runroot $store/run --storage-driver overlay"
# runc and cgroupfs: they work without systemd, and on hybrid cgroups
podman="podman --root $store/graph --runroot $store/run --storage-driver overlay --runtime runc --cgroup-manager cgroupfs"
hosts="a b c"

build() {
    if ! $buildah inspect --type image localhost/distgan-base > /dev/null 2>&1; then
        local mirror base container
        mirror=$(sed -n 's/^URIs: *//p; s/^deb \(\[[^]]*\] \)\?\([^ ]*\) .*/\2/p' /etc/apt/sources.list /etc/apt/sources.list.d/* 2> /dev/null | head -1)
        base=$(mktemp -d /var/tmp/distgan-base.XXXX)
        debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv,python3-pip bookworm "$base" "$mirror" > /dev/null
        tar -C "$base" --one-file-system -c . > "$work/base.tar"
        rm -rf "$base"
        container=$($buildah from scratch)
        $buildah add -q "$container" "$work/base.tar" /
        $buildah commit -q "$container" localhost/distgan-base > /dev/null
        $buildah rm "$container" > /dev/null
    fi
    # shellcheck disable=SC2086
    $buildah bud -q --isolation chroot --network host --format docker --layers ${BUILD_OPTIONS:-} --build-arg PIP_EXTRA="${PIP_EXTRA:-}" \
        --build-arg BASE_IMAGE=localhost/distgan-base -t localhost/distgan:ci -f docker/Dockerfile . > /dev/null
}

down() {
    for h in $hosts; do $podman rm --force --time 0 "dgi-$h" > /dev/null 2>&1 || true; done
    for h in $hosts; do ip netns del "dgi$h" 2> /dev/null || true; ip link del "dgiv$h" 2> /dev/null || true; done
    ip link del dgibr 2> /dev/null || true
    rm -rf "$work"
}
trap down EXIT

up() {
    ip link add dgibr type bridge
    ip link set dgibr up
    local i=1 role extra
    for h in $hosts; do
        ip netns add "dgi$h"
        ip link add "dgiv$h" type veth peer name eth0 netns "dgi$h"
        ip link set "dgiv$h" master dgibr up
        ip -n "dgi$h" link set lo up
        ip -n "dgi$h" addr add "10.77.0.$i/24" dev eth0
        ip -n "dgi$h" link set eth0 up
        i=$((i + 1))
    done
    i=1
    for h in $hosts; do
        role="--address=10.77.0.1:6379 --num-cpus=1"
        [ $h = a ] && role="--head --port=6379 --num-cpus=0 --dashboard-host=10.77.0.1"
        # shellcheck disable=SC2086
        $podman run --detach --name "dgi-$h" --hostname "node-$h" --network "ns:/run/netns/dgi$h" --add-host node-a:10.77.0.1 \
            --add-host node-b:10.77.0.2 --add-host node-c:10.77.0.3 --ulimit nofile=4096:16384 --ulimit nproc=20000:20000 --shm-size 256m \
            --cap-drop all --security-opt no-new-privileges --memory 4g --env-file "$work/env" --volume "$work/runs:/runs" "$image" \
            ray start $role "--node-ip-address=10.77.0.$i" --object-store-memory=80000000 --block > /dev/null
        [ $h != a ] || until_well a
        i=$((i + 1))
    done
    for h in b c; do until_well $h; done
}

until_well() {
    for _ in $(seq 120); do
        $podman exec "dgi-$1" python /opt/distgan/healthcheck.py --always 2> /dev/null && return
        sleep 1
    done
    echo "container $1 did not become well" >&2
    $podman logs "dgi-$1" >&2
    return 1
}

image=${IMAGE:-localhost/distgan:ci}
[ -n "${IMAGE:-}" ] || build
mkdir "$work/runs"
chown 1000:1000 "$work/runs"
(umask 077 && cat > "$work/env") << END
RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n')
OMP_NUM_THREADS=1
RAY_health_check_initial_delay_ms=1000
RAY_health_check_period_ms=1000
RAY_health_check_timeout_ms=3000
RAY_health_check_failure_threshold=4
END
up
echo "three containers are well"
[ "$($podman exec dgi-a id -u)" = 1000 ]

$podman exec dgi-a distgan doctor --address 10.77.0.1:6379 --storage /runs --mib 4

run() {
    $podman exec dgi-a distgan submit train --address http://10.77.0.1:8265 --working-dir none -- --storage /runs --workers 2 --kimg 6.4 \
        --batch-size 32 --data.limit 256 --model.name mlp --model.g-width 8 --model.d-width 8 --model.conditioning none --loss.r1-gamma 0 \
        --loss.r2-gamma 0 --checkpoint.every-kimg 0.64 --log.every-kimg 0.32 --metrics.every-kimg 6.4 --metrics.final-samples 64 \
        --metrics.samples 64 "$@"
}
seen() { sed -n 's/.*"nimg": \([0-9]*\).*/\1/p' "$work/runs/$1/status.json" 2> /dev/null || true; }

run --name undisturbed
run --name disturbed > "$work/log" 2>&1 &
job=$!
for _ in $(seq 600); do
    n=$(seen disturbed)
    [ "${n:-0}" -lt 1500 ] || break
    sleep 0.1
done
$podman kill dgi-c > /dev/null
echo "killed a worker's container at ${n:-0} of 6400 images"
[ "${n:-0}" -lt 6400 ]
sleep 10
$podman start dgi-c > /dev/null
wait $job || { cat "$work/log"; exit 1; }

$podman exec dgi-a python -c '
import torch
a, b = (torch.load(f"/runs/{name}/checkpoints/000000006400/state.pt", weights_only=True) for name in ("undisturbed", "disturbed"))
def same(a, b):
    if isinstance(a, torch.Tensor): return torch.equal(a, b)
    if isinstance(a, dict): return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)): return len(a) == len(b) and all(map(same, a, b))
    return a == b
assert same(a, b), "the weights differ"'
token=$(sed -n 's/^RAY_AUTH_TOKEN=//p' "$work/env")
if $podman history --no-trunc --format '{{.CreatedBy}}' "$image" | grep -E "$token|(TOKEN|SECRET|PASSWORD)="; then exit 1; fi
if grep -rF "$token" "$work/runs" "$work/log"; then exit 1; fi
echo "ok: the same weights with and without the loss; no token in image, runs and logs"
