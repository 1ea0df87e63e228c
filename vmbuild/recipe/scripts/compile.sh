# Configures and compiles a VM, and collects what the build made in /out. Runs
# without a network; /src and the sysroot are read-only.
#   TRIPLE      target
#   BUILD_TYPE  CMake build type
#   OPTIONS     CMake options, one a line
#   C_FLAGS     compiler flags
#   LINK_FLAGS  linker flags
#   SOURCE_DATE_EPOCH
set -eu
cpu=${TRIPLE%%-*}
sysroot=/opt/sysroot
mkdir -p /opt/toolchain /build

# Flags belong in the wrapper: any -DCMAKE_C_FLAGS= would discard CMAKE_C_FLAGS_INIT.
# libgcc's outline atomics call __getauxval, which musl does not have.
case $TRIPLE in aarch64-linux-musl) C_FLAGS="$C_FLAGS -mno-outline-atomics" ;; esac
# Alpine's clang turns on by itself what Debian's leaves off; here both builders
# compile alike, and as docs/flags.md measured.
C_FLAGS="-fno-stack-protector -fno-stack-clash-protection -U_FORTIFY_SOURCE $C_FLAGS"
cat >/opt/toolchain/cc <<W
#!/bin/sh
exec clang --target=$TRIPLE --sysroot=$sysroot --gcc-toolchain=$sysroot/usr -fuse-ld=lld -static-libgcc \\
  -Wno-unused-command-line-argument -ffile-prefix-map=/src=. -ffile-prefix-map=/build=build $C_FLAGS "\$@"
W
chmod +x /opt/toolchain/cc
cat >/opt/toolchain/toolchain.cmake <<W
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR $cpu)
set(CMAKE_SYSROOT $sysroot)
set(CMAKE_C_COMPILER /opt/toolchain/cc)
set(CMAKE_CXX_COMPILER /opt/toolchain/cc)
set(CMAKE_CXX_COMPILER_WORKS TRUE) # some trees ask for C++ and compile none
set(CMAKE_ASM_COMPILER /opt/toolchain/cc)
set(CMAKE_ASM-ATT_COMPILER /opt/toolchain/cc)
set(CMAKE_AR llvm-ar)
set(CMAKE_RANLIB llvm-ranlib)
set(CMAKE_FIND_ROOT_PATH $sysroot)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)
W

# ccache cannot see through the wrapper, so it is told what decides the output.
# Depend mode: without it every cold compile would run the preprocessor apart first.
export CCACHE_DIR=/ccache CCACHE_DEPEND=1 CCACHE_NOHASHDIR=1 CCACHE_MAXSIZE=2G CCACHE_SLOPPINESS=time_macros
CCACHE_COMPILERCHECK="string:$(clang --version | cksum) $(cksum </opt/toolchain/cc) $(cksum <$sysroot/packages.txt)"
export CCACHE_COMPILERCHECK SOURCE_DATE_EPOCH

IFS='
'
set -f
cmake -S /src -B /build -G Ninja -DCMAKE_TOOLCHAIN_FILE=/opt/toolchain/toolchain.cmake \
  -DCMAKE_BUILD_TYPE="$BUILD_TYPE" -DCMAKE_C_COMPILER_LAUNCHER=ccache \
  -DCMAKE_EXE_LINKER_FLAGS="$LINK_FLAGS" -DCMAKE_MODULE_LINKER_FLAGS="$MODULE_LINK_FLAGS" $OPTIONS
unset IFS
set +f
cmake --build /build -j "$(nproc)"

mkdir -p /out/raw /out/info
cp /build/dist/pharo /out/raw/
# The VM looks for X.so before libX.so.
for module in /build/dist/*.so; do
  [ ! -f "$module" ] || { name=${module##*/} && cp "$module" "/out/raw/${name#lib}"; }
done
{
  clang --version | head -n 1
  cmake --version | head -n 1
} >/out/info/compiler.txt
grep -E '^(BUILD_PLUGIN_|[A-Z_]+:BOOL)' /build/CMakeCache.txt | sort >/out/info/cmake.txt
sort -u $sysroot/packages.txt >/out/info/sysroot-packages.txt
if command -v dpkg-query >/dev/null; then
  dpkg-query -W -f '${Package}\t${Version}\t${Architecture}\n'
else
  apk info -v | sed -E "s/^(.*)-([^-]+-r[0-9]+)\$/\1\t\2\t$(apk --print-arch)/"
fi | sort >/out/info/packages.txt
# What each plugin adds to the VM: code and data of its objects, in bytes.
find /build -name '*.o' -path '*/plugins/*' | sort | while read -r object; do
  plugin=${object##*/plugins/}
  plugin=${plugin%%/*}
  llvm-size "$object" | awk -v name="${plugin%%.*}" 'NR == 2 { print name, $1 + $2 }'
done | awk '{ size[$1] += $2 } END { for (name in size) print name, size[name] }' | sort >/out/info/plugin-sizes.txt
