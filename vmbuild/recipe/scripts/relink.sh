# An absolute link would lead out of the sysroot.
find /sysroot -type l | while read -r link; do
  target=$(readlink "$link")
  case $target in
  /*)
    up=$(dirname "${link#/sysroot}" | sed -e 's:^/::' -e 's:[^/][^/]*:..:g')
    ln -sfn "${up:-.}$target" "$link"
    ;;
  esac
done
