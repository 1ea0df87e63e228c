# What a Dockerfile would do today: install a compiler for the platform that the
# container is for, and build there. Only the benchmark runs it.
#   OPTIONS  CMake options, one a line
#   LIBC     glibc, or musl: through Debian's wrapper of gcc, in place of an Alpine
set -eu
export DEBIAN_FRONTEND=noninteractive
apt-get -q update
apt-get -qy install --no-install-recommends gcc libc6-dev libssl-dev cmake make musl-tools
if [ "$LIBC" = musl ]; then
  # Headers of Linux and OpenSSL, behind musl's own.
  export CC=musl-gcc CFLAGS="-idirafter /usr/include -idirafter /usr/include/$(gcc -dumpmachine)"
  # As in compile.sh: musl has no __getauxval.
  case $(uname -m) in aarch64) CFLAGS="$CFLAGS -mno-outline-atomics" ;; esac
fi
IFS='
'
set -f
cmake -S /src -B /build -DCMAKE_BUILD_TYPE=Release -DCMAKE_ASM-ATT_COMPILER=as $OPTIONS
cmake --build /build -j "$(nproc)"
