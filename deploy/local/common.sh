# Sourced by the scripts beside it: where we are, how we speak, and what makes the virtual
# environment. Nothing here needs more than bash, coreutils and a Python.

cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1
VENV=.venv

say() { printf 'macromdm: %s\n' "$*" >&2; }

die() {
    say "$*"
    exit 1
}

# The first Python that can make a virtual environment, preferably one for which SecantusDB, the store
# of `make up` and of the tests, has a build (3.11 to 3.13); PYTHON=... chooses another.
find_python() {
    local candidate newest version without_venv=''
    for newest in 13 99; do
        for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
            version=$("$candidate" -c "import sys
sys.exit(1) if not (3, 11) <= sys.version_info[:2] <= (3, $newest) else print('%d.%d' % sys.version_info[:2])" \
                2>/dev/null) || continue
            if "$candidate" -c 'import venv, ensurepip' 2>/dev/null; then
                printf '%s\n' "$candidate"
                return
            fi
            without_venv=${without_venv:-$version}
        done
    done
    if [ -n "$without_venv" ]; then
        die "Python $without_venv cannot make virtual environments; install: apt-get install python$without_venv-venv"
    fi
    die "Python 3.11 or newer is missing; install: apt-get install python3 python3-venv"
}

LOCK=deploy/image/requirements.lock

# install_venv NAME [EXTRAS]: .venv with the project and these extras. A stamp remembers what
# pyproject.toml and the lock said at the last install, so that the next start installs nothing; `dev` has all.
install_venv() {
    local stamp=$VENV/.installed-$1 extras=${2:-} wanted=$VENV/.wanted
    make_venv
    cat pyproject.toml "$LOCK" >"$wanted"
    if cmp -s "$wanted" "$stamp" || cmp -s "$wanted" "$VENV/.installed-dev"; then
        return
    fi
    say "installing what the project needs into $VENV (the first time takes a minute or two)"
    pip_install "$extras"
    cp "$wanted" "$stamp"
    say "installed"
}

# A folder that was moved, or whose Python is gone, is made anew: its scripts name their place.
make_venv() {
    local python
    if [ "$(cat "$VENV/.place" 2>/dev/null)" = "$PWD" ] &&
        "$VENV/bin/python" -c 'import pip' 2>/dev/null; then
        return
    fi
    # To make it anew would empty what it leads to.
    [ ! -L "$VENV" ] || die "$VENV is a link to another place's environment: remove it, and start again"
    python=$(find_python) || exit 1
    say "making a virtual environment in $VENV ($("$python" --version))"
    "$python" -m venv --clear "$VENV" || die "could not make $VENV"
    printf '%s' "$PWD" >"$VENV/.place"
}

# In the versions of the image, so that what is tested is what runs there.
pip_install() {
    local output
    sed -E -n 's/^([A-Za-z0-9._-]+==[^ ;\\]+( ;[^\\]*)?).*/\1/p' "$LOCK" >"$VENV/constraints.txt"
    if output=$("$VENV/bin/python" -m pip install --quiet --disable-pip-version-check \
        --constraint "$VENV/constraints.txt" --editable ".${1:+[$1]}" 2>&1); then
        return
    fi
    case $output in
    *"distribution found for SecantusDB"*)
        die "SecantusDB, the store of \`make up\` and of the tests, has no build for" \
            "$("$VENV/bin/python" --version) on $(uname -m): use Python 3.11 to 3.13 (remove $VENV," \
            "PYTHON=python3.12 make ...), or for \`make up\` set MDM_MONGODB_URL to a MongoDB"
        ;;
    esac
    printf '%s\n' "$output" >&2
    die "pip could not install the project (its words are above)"
}

# need_debian PACKAGE FILE HINT: install a Debian package unless FILE is there. The package must
# not start a service of its own: ours use private nodes, ports and folders.
need_debian() {
    local package=$1 file=$2 hint=$3
    [ -e "$file" ] && return
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        die "$package is missing; install it as root: apt-get install $package$hint"
    fi
    say "installing $package from Debian's packages"
    (
        policy=/usr/sbin/policy-rc.d
        if [ ! -e "$policy" ]; then
            trap 'rm -f "$policy"' EXIT
            printf '#!/bin/sh\nexit 101\n' >"$policy"
            chmod 755 "$policy"
        fi
        export DEBIAN_FRONTEND=noninteractive
        { apt-get update -q && apt-get install -q -y --no-install-recommends "$package"; } \
            </dev/null >"${TMPDIR:-/tmp}/macromdm-apt.$$" 2>&1
    ) || {
        tail -n 20 "${TMPDIR:-/tmp}/macromdm-apt.$$" >&2
        die "apt-get could not install $package$hint"
    }
    rm -f "${TMPDIR:-/tmp}/macromdm-apt.$$"
}
