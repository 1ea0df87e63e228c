# Makes a sysroot in /sysroot from Debian packages of the target's architecture,
# unpacked but never run.
#   TRIPLE    target, such as aarch64-linux-musl
#   PACKAGES  what it is made of
set -eu
cpu=${TRIPLE%%-*}
case $cpu in x86_64) arch=amd64 ;; aarch64) arch=arm64 ;; esac
multiarch=$cpu-linux-gnu
unpacked=$(mktemp -d)
cd "$(mktemp -d)"
want=$(for p in $PACKAGES; do echo "$p:$arch"; done)
# The package lists may be older than the mirror.
apt-get -q download $want || { apt-get -q update && apt-get -q download $want; }
for deb in *.deb; do
  dpkg-deb -x "$deb" "$unpacked"
  dpkg-deb -W --showformat='${Package}\t${Version}\t${Architecture}\n' "$deb"
done >/sysroot/packages.txt
case $TRIPLE in
*-gnu)
  cp -a "$unpacked/." /sysroot/
  # Certificates are the same for every architecture; the builder's own are complete.
  mkdir -p /sysroot/etc/ssl/certs
  cp /etc/ssl/certs/ca-certificates.crt /sysroot/etc/ssl/certs/
  ;;
*-musl)
  # Debian keeps musl beside glibc; here it lies flat, where clang looks.
  gcc=$(cd "$unpacked/usr/lib/gcc/$multiarch" && echo *)
  mkdir -p "/sysroot/usr/lib/gcc/$cpu-unknown-linux-musl" /sysroot/lib
  cp -a "$unpacked/usr/include/$TRIPLE" /sysroot/usr/include
  cp -a "$unpacked/usr/include/linux" "$unpacked/usr/include/asm-generic" /sysroot/usr/include/
  cp -a "$unpacked/usr/include/$multiarch/asm" /sysroot/usr/include/asm
  cp -a "$unpacked/usr/include/openssl" /sysroot/usr/include/openssl
  cp -a "$unpacked/usr/include/$multiarch/openssl/." /sysroot/usr/include/openssl/
  cp -a "$unpacked/usr/lib/$TRIPLE/." /sysroot/usr/lib/
  cp -a "$unpacked/lib/$TRIPLE/libc.so" /sysroot/usr/lib/libc.so
  cp -a "$unpacked/lib/$TRIPLE/libc.so" "/sysroot/lib/ld-musl-$cpu.so.1"
  cp -a "$unpacked/usr/lib/gcc/$multiarch/$gcc" "/sysroot/usr/lib/gcc/$cpu-unknown-linux-musl/$gcc"
  ;;
esac
rm -rf /sysroot/usr/share
