# Makes a sysroot in /sysroot from Alpine packages of the target's architecture,
# unpacked but never run.
#   TRIPLE    target, such as aarch64-linux-musl
#   PACKAGES  what it is made of
set -eu
cpu=${TRIPLE%%-*}
# The keys of every architecture come with apk; those in /etc/apk/keys are the builder's own only.
apk add --root /sysroot --arch "$cpu" --initdb --no-scripts --no-cache \
  --keys-dir "/usr/share/apk/keys/$cpu" --repositories-file /etc/apk/repositories $PACKAGES
apk info --root /sysroot -v | sort | sed -E "s/^(.*)-([^-]+-r[0-9]+)\$/\1\t\2\t$cpu/" >/sysroot/packages.txt
# Alpine names gcc's folder after its own vendor; clang looks under these names.
for name in "$cpu-unknown-linux-musl" "$cpu-linux-musl"; do
  [ ! -d "/sysroot/usr/lib/gcc/$cpu-alpine-linux-musl" ] || ln -sfn "$cpu-alpine-linux-musl" "/sysroot/usr/lib/gcc/$name"
done
