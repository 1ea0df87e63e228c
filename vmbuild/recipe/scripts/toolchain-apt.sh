# Installs the builder's packages and lists those of both architectures, so that
# sysroots can be downloaded. Runs with the network on.
#   MIRROR    archive to use, such as http://deb.debian.org/debian; empty keeps those
#             that the root names
#   SECURITY  its security archive
#   RELEASE   Debian release name
#   PACKAGES  what to install; NAME/RELEASE-backports takes one from there
set -eu
export DEBIAN_FRONTEND=noninteractive
if [ -z "$MIRROR" ]; then
  # The root's own archive has backports as well, though it may not list them.
  own=$(grep -rhoE '(http|https)://[^ ]*/debian/?( |$)' /etc/apt/sources.list /etc/apt/sources.list.d 2>/dev/null | head -n 1)
  echo "deb ${own:-http://deb.debian.org/debian} $RELEASE-backports main" >/etc/apt/sources.list.d/backports.list
else
  rm -f /etc/apt/sources.list.d/*
  {
    echo "deb $MIRROR $RELEASE main"
    echo "deb $MIRROR $RELEASE-updates main"
    echo "deb $MIRROR $RELEASE-backports main"
    [ -z "$SECURITY" ] || echo "deb $SECURITY $RELEASE-security main"
  } >/etc/apt/sources.list
fi
# A snapshot's index files are past their date by design; their signatures are still checked.
cat >/etc/apt/apt.conf.d/90vmbuild <<'CONF'
Acquire::Check-Valid-Until "false";
Acquire::Retries "5";
Acquire::Languages "none";
APT::Install-Recommends "false";
APT::Sandbox::User "root";
Dpkg::Use-Pty "false";
CONF
# Documentation is never read in a builder, and unpacking it costs a third of the time.
printf 'path-exclude /usr/share/%s/*\n' doc man locale info >/etc/dpkg/dpkg.cfg.d/90vmbuild
printf 'force-unsafe-io\n' >>/etc/dpkg/dpkg.cfg.d/90vmbuild
for arch in amd64 arm64; do
  [ "$arch" = "$(dpkg --print-architecture)" ] || dpkg --add-architecture "$arch"
done
apt-get -q update
apt-get -qy install $PACKAGES
# What changes from one installation to the next must not reach a digest.
rm -rf /var/log/* /var/cache/apt/archives/*.deb /var/cache/ldconfig/aux-cache
