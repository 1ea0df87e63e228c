# Strips a VM, keeps its symbols beside it, packs it, and takes from the sysroot
# what an image from scratch needs. Runs without a network.
#   METHODS  UPX methods: best, lzma; empty for none
#   RUNTIME  lines of "PART /file/in/the/sysroot"
set -eu
mkdir -p /out/vm /out/symbols /out/runtime
cp -a /raw/info /out/info
for file in /raw/raw/*; do
  name=${file##*/}
  llvm-objcopy --only-keep-debug "$file" "/out/symbols/$name.debug"
  llvm-objcopy --strip-all --remove-section=.comment "$file" "/out/vm/$name"
  (cd /out/symbols && llvm-objcopy --add-gnu-debuglink="$name.debug" "/out/vm/$name")
  # A module is opened, never executed.
  case $name in *.so) chmod 644 "/out/vm/$name" ;; *) chmod 755 "/out/vm/$name" ;; esac
  chmod 644 "/out/symbols/$name.debug"
done
for method in $METHODS; do
  mkdir -p "/out/packed/$method"
  case $method in lzma) level='--best --lzma' ;; *) level=--$method ;; esac
  upx -q --no-progress $level -o "/out/packed/$method/pharo" /out/vm/pharo
  upx -q -t "/out/packed/$method/pharo"
done
printf '%s\n' "$RUNTIME" | while read -r part file; do
  [ -n "$part" ] || continue
  mkdir -p "/out/runtime/$part$(dirname "$file")"
  cp -L "/opt/sysroot$file" "/out/runtime/$part$file"
  case $file in
  *.so | *.so.*)
    llvm-objcopy --strip-unneeded "/out/runtime/$part$file"
    chmod 755 "/out/runtime/$part$file"
    ;;
  *) chmod 644 "/out/runtime/$part$file" ;;
  esac
done
