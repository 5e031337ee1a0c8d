# Shared by the scripts: what a bare Debian needs, and the virtual environment. Sourced, never run.
set -euo pipefail

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${PORTSIDE_VENV:-$top/.venv}
python=${PYTHON:-/usr/bin/python3}

# Packages to run containers at all, and the real peers that the tests and benchmarks talk to.
run_packages=(python3 python3-venv ca-certificates libseccomp2 iproute2)
demo_packages=("${run_packages[@]}" busybox-static docker-registry)
test_packages=("${demo_packages[@]}" containerd runc nghttp2-client skopeo umoci e2fsprogs strace procps openssl stargz-snapshotter)

say() { printf '\033[1m== %s\033[0m\n' "$*"; }

# install_packages NAME... : those that are missing, by apt, as root.
install_packages() {
    local missing=()
    for name in "$@"; do
        [ "$(dpkg-query -W -f='${db:Status-Status}' "$name" 2>/dev/null || true)" = installed ] || missing+=("$name")
    done
    [ ${#missing[@]} -eq 0 ] && return
    say "installing Debian packages: ${missing[*]}"
    apt-get update -qq
    # The services of these packages are not wanted: the tests start private ones.
    local policy=/usr/sbin/policy-rc.d made=
    if [ ! -e $policy ]; then printf '#!/bin/sh\nexit 101\n' >$policy; chmod 755 $policy; made=1; fi
    DEBIAN_FRONTEND=noninteractive DEBCONF_NOWARNINGS=yes apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
    [ -z "$made" ] || rm -f $policy
}

# make_venv GROUP... : the checkout, editable, with the dependency groups named; again only if pyproject.toml changed.
make_venv() {
    local stamp want have
    stamp=$venv/.portside-stamp
    want=$(cat "$top/pyproject.toml" "$top/script/generate.py" <(cd "$top" && find src/portside/wire/proto -name '*.proto' -exec cat {} +) | sha256sum | cut -d' ' -f1)-$*
    have=$(cat "$stamp" 2>/dev/null || true)
    # An environment that has groups will do for who wants none.
    if [ "$have" != "$want" ] && { [ $# -gt 0 ] || [ "${have%%-*}" != "${want%-}" ]; }; then
        say "virtual environment in $venv ($("$python" --version))"
        [ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
        "$venv/bin/pip" install -q --disable-pip-version-check --upgrade 'pip>=25.1'
        local groups=()
        for group in "$@"; do groups+=(--group "$group"); done
        (cd "$top" && "$venv/bin/pip" install -q --disable-pip-version-check -e . ${groups[@]+"${groups[@]}"})
        printf '%s\n' "$want" >"$stamp"
    fi
    [ -d "$top/src/portside/wire/pb" ] || (cd "$top" && "$venv/bin/pip" install -q --disable-pip-version-check -e .)
    export PATH=$venv/bin:$PATH
}

need_root() {
    [ "$(id -u)" = 0 ] || { echo "$0: needs root (namespaces, mounts, cgroups)" >&2; exit 2; }
}
