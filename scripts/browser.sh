# Sourced by test.sh: installs Debian's chromium for the tests of the report page, if apt can.
# Without it those tests are skipped, or fail if CI is set.
if ! command -v chromium >/dev/null && command -v apt-get >/dev/null; then
    as_root=()
    [ "$(id -u)" = 0 ] || as_root=(sudo -n)
    if "${as_root[@]}" true 2>/dev/null; then
        echo "installing chromium for the tests of the report page" >&2
        {
            "${as_root[@]}" apt-get update -qq
            "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
                apt-get install -y -qq --no-install-recommends chromium
        } >/dev/null 2>&1 || echo "apt-get could not install chromium" >&2
    fi
fi
