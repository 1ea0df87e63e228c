# What a Dockerfile would do today: install a compiler for the platform that the
# container is for, and build there. Only the benchmark runs it.
#   OPTIONS  CMake options, one a line
set -eu
export DEBIAN_FRONTEND=noninteractive
apt-get -q update
apt-get -qy install --no-install-recommends gcc libc6-dev libssl-dev cmake make
IFS='
'
set -f
cmake -S /src -B /build -DCMAKE_BUILD_TYPE=Release $OPTIONS
cmake --build /build -j "$(nproc)"
