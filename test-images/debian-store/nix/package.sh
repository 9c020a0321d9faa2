# Builder of one Debian package; runs in Nix's sandbox with a static busybox and a static patchelf.
#
# Debian's programs look for each other below /usr; here they must find store paths. So: unpack, put what is below
# /usr at the top, and rewrite symbolic links, interpreters of scripts, the loader and the library path of ELF files,
# and linker scripts to name the dependencies' store paths. What is still not found is said in the build log.
set -e
export PATH="$tools/bin"
libs=lib/x86_64-linux-gnu
loader=$libs/ld-linux-x86-64.so.2

unpack() {
  for src in $srcs; do
    case $src in
      *.tgz) tar xzf "$src" -C "$out" --strip-components=1 ;;
      *)
        mkdir "$TMPDIR/deb" && cd "$TMPDIR/deb" && ar x "$src"
        if [ -e data.tar.xz ]; then xz -dc data.tar.xz | tar x -C "$out" --no-same-owner
        elif [ -e data.tar.gz ]; then tar xzf data.tar.gz -C "$out"
        else echo "$src: no data.tar.xz and no data.tar.gz"; exit 1; fi
        cd "$out" && rm -rf "$TMPDIR/deb"
        ;;
    esac
  done
}

# Moves what is in directory $1 into the current one; what is there already wins, except over a link.
merge() {
  [ -d "$1" ] || return 0
  for from in "$1"/* "$1"/.[!.]*; do
    [ -e "$from" ] || [ -L "$from" ] || continue
    to=${from##*/}
    if [ -d "$to" ] && [ ! -L "$to" ] && [ -d "$from" ] && [ ! -L "$from" ]; then (cd "$to" && merge "$from")
    elif [ -L "$to" ] && [ ! -L "$from" ]; then rm "$to" && mv "$from" "$to"
    elif [ ! -e "$to" ] && [ ! -L "$to" ]; then mv "$from" "$to"; fi
  done
}

flatten() {
  merge "$out/usr" && rm -rf usr
  if [ -d lib64 ]; then mkdir -p lib && (cd lib && merge "$out/lib64") && rm -rf lib64; fi
  if [ -d sbin ]; then mkdir -p bin && (cd bin && merge "$out/sbin") && rm -rf sbin; fi
  rm -rf share/doc share/man share/locale share/lintian share/info share/bug var/lib/dpkg
  chmod -R u+w . && find . -type f -perm /6000 -exec chmod ug-s {} +
}

# All that this package depends on, nearest first, itself at the head: Debian's dependencies are transitive.
find_closure() {
  closure=$out queue=$deps
  while [ -n "$queue" ]; do
    next=
    for path in $queue; do
      case " $closure " in
        *" $path "*) ;;
        *) closure="$closure $path" next="$next $(cat "$path/nix-support/depends")" ;;
      esac
    done
    queue=$next
  done
}

# The first store path of the closure that has $1.
having() {
  for path in $closure; do
    if [ -n "$1" ] && [ -e "$path/$1" ]; then echo "$path"; return; fi
  done
  return 1
}

# Where each shared library lies: a file for each soname, holding its directory.
index_libraries() {
  mkdir "$TMPDIR/sonames"
  for path in $closure; do
    for dir in "$path/$libs" "$path/lib" "$path/$libs"/* "$path/lib"/*; do
      # Modules of interpreters, which nothing links with.
      case $dir in */python3* | */perl* | */jvm | */go* | */gconv | */debug | */nodejs | */node_modules) continue ;; esac
      for file in "$dir"/*.so*; do
        soname=${file##*/}
        if [ -e "$file" ] && [ ! -e "$TMPDIR/sonames/$soname" ]; then echo "$dir" >"$TMPDIR/sonames/$soname"; fi
      done
    done
  done
}

# $1 as a path below a package's top: Debian's directories are merged here.
place() {
  case $1 in
    usr/*) place "${1#usr/}" ;;
    sbin/*) echo "bin/${1#sbin/}" ;;
    lib64/*) echo "$libs/${1#lib64/}" ;;
    *) echo "$1" ;;
  esac
}

# $1 without its `.` and `..`.
normal() {
  result= IFS=/
  for part in $1; do
    case $part in
      '' | .) ;;
      ..) case $result in */*) result=${result%/*} ;; *) result= ;; esac ;;
      *) result=$result${result:+/}$part ;;
    esac
  done
  unset IFS
  echo "$result"
}

# Symbolic links that leave the package lead into the one that has their target.
mend_link() {
  target=$(readlink "$1")
  case $target in
    /nix/store/*) return ;;
    /etc/alternatives/*) rm "$1"; return ;; # set at installation, by a system
    /*) rest=${target#/} ;;
    *) [ -e "$1" ] && return; dir=${1%/*}; rest=$(normal "${dir#"$out"}/$target") ;;
  esac
  rest=$(place "$rest")
  if path=$(having "$rest" || having "$libs/${rest#lib/}"); then
    [ -e "$path/$rest" ] || rest=$libs/${rest#lib/}
    ln -sfn "$path/$rest" "$1"
  fi
}

# The interpreter of a script: the same file of a dependency, else the program of that name.
mend_script() {
  IFS= read -r first <"$1" 2>/dev/null || true
  case $first in '#!'*) ;; *) return 0 ;; esac
  line=${first#\#!} line=${line# }
  program=${line%% *} arguments=${line#"${line%% *}"}
  case $program in */env) arguments=${arguments# } program=${arguments%% *} arguments=${arguments#"$program"} ;; esac
  file=$(place "${program#/}") name=${program##*/}
  case $name in sh) name=dash ;; python3) name=python3.11 ;; esac
  for path in $closure $shell; do
    for found in "$path/$file" "$path/bin/$name"; do
      if [ -f "$found" ]; then sed -i "1s|.*|#!$found$arguments|" "$1"; return; fi
    done
  done
}

# The loader and the library path of a program or a library; $2: the sonames it needs.
mend_elf() {
  rpath=
  for soname in $2; do
    if [ -e "$TMPDIR/sonames/$soname" ]; then
      dir=$(cat "$TMPDIR/sonames/$soname")
      case ":$rpath:" in *":$dir:"*) ;; *) rpath=$rpath${rpath:+:}$dir ;; esac
    else
      echo "missing $soname for ${1#"$out"/}"
    fi
  done
  old=$(patchelf --print-rpath "$1" 2>/dev/null || true)
  case $old in *'$ORIGIN'*) rpath=$old:$rpath ;; esac
  # A few objects have no room for a path (static, or without a dynamic section): they stay as they are.
  [ -z "$rpath" ] || patchelf --force-rpath --set-rpath "$rpath" "$1" 2>/dev/null || echo "no rpath for ${1#"$out"/}"
  if [ -n "$libc" ] && patchelf --print-interpreter "$1" >/dev/null 2>&1; then
    patchelf --set-interpreter "$libc/$loader" "$1" || echo "no loader for ${1#"$out"/}"
  fi
}

# Text files named libX.so that tell the linker where the parts are.
mend_linker_script() {
  head -c 60 "$1" | grep -q 'GNU ld script' || return 0
  for word in $(grep -oE '/(usr/)?lib(64)?/[^ )]+' "$1" | sort -u); do
    file=$(place "${word#/}")
    if path=$(having "$file"); then sed -i "s|\([ (]\)$word|\1$path/$file|g" "$1"; fi
  done
}

mkdir "$out" && cd "$out"
unpack
flatten
find_closure
index_libraries
find "$out" -type l | while read -r link; do mend_link "$link"; done
libc=$(having "$loader" || true)
case $pname in
  libc6 | golang*) ;; # libc is what the others are pointed to; Go's programs are static and break when changed
  *)
    find "$out" -type f \( -perm -100 -o -name '*.so' -o -name '*.so.*' -o -name '*.node' \) | while read -r file; do
      if needed=$(patchelf --print-needed "$file" 2>/dev/null); then mend_elf "$file" "$needed"
      else mend_script "$file"; fi
    done
    ;;
esac
for file in "$libs"/*.so; do
  if [ -f "$file" ] && [ ! -L "$file" ]; then mend_linker_script "$file"; fi
done
mkdir -p nix-support && echo "$deps" >nix-support/depends
