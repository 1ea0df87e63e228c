# Installs the builder's packages. Runs with the network on.
#   MIRROR    Alpine mirror; empty keeps the root's own
#   RELEASE   Alpine release, such as v3.22
#   PACKAGES  what to install
set -eu
if [ -n "$MIRROR" ]; then
  printf '%s\n' "$MIRROR/$RELEASE/main" "$MIRROR/$RELEASE/community" >/etc/apk/repositories
fi
apk add --no-cache $PACKAGES
