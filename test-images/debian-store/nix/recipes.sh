# What the files in ../environments are written with. Runs in busybox's shell, in the output.

# Sets closure (the packages and all they depend on, nearest first), libc, and loader.
find_closure() {
  closure= queue=$paths libc= loader=
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
  for path in $closure; do
    if [ -e "$path/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2" ]; then
      libc=$path loader=$path/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2
    fi
  done
}

# link_programs [PATH...]: each program of the packages (or of PATHs) as a link in bin; the first of a name wins.
link_programs() {
  for path in ${*:-$paths}; do
    for file in "$path"/bin/*; do
      name=${file##*/}
      if [ -e "$file" ] && [ ! -L "bin/$name" ] && [ ! -e "bin/$name" ]; then ln -s "$file" "bin/$name"; fi
    done
  done
  [ -e bin/awk ] || ln -s mawk bin/awk
}

# farm DIR: DIR of all packages of the closure as one tree of links.
farm() {
  for path in $closure; do
    [ -d "$path/$1" ] || continue
    (cd "$path/$1" && find . -type d) | while read -r dir; do mkdir -p "$1/$dir"; done
    (cd "$path/$1" && find . -type f -o -type l) | while read -r file; do
      [ -e "$1/$file" ] || [ -L "$1/$file" ] || ln -s "$path/$1/$file" "$1/$file"
    done
  done
}

# find1 FILE: FILE in the first package of the closure that has it.
find1() {
  for path in $closure; do
    if [ -e "$path/$1" ]; then echo "$path/$1"; return; fi
  done
  echo "no package of the environment has $1" >&2
  exit 1
}

# wrap NAME TARGET LINES [ARGUMENTS]: bin/NAME is a script that runs LINES and then TARGET with ARGUMENTS and its own.
wrap() {
  rm -f "bin/$1"
  printf '#!%s/bin/dash\n%s\nexec %s %s "$@"\n' "$dash" "$3" "$2" "$4" >"bin/$1"
  chmod +x "bin/$1"
}

# python3 that finds the modules of all packages.
python() {
  farm lib/python3.11
  farm lib/python3/dist-packages
  lines="export PYTHONHOME=$out PYTHONPATH=$out/lib/python3/dist-packages PYTHONDONTWRITEBYTECODE=1"
  lines="$lines OPENSSL_MODULES=$(find1 lib/x86_64-linux-gnu/ossl-modules)"
  for name in python3 python3.11; do wrap $name "$(find1 bin/python3.11)" "$lines"; done
}

# perl that finds the modules of all packages; sets perl5lib.
perl() {
  for dir in share/perl5 share/perl lib/x86_64-linux-gnu/perl lib/x86_64-linux-gnu/perl-base lib/x86_64-linux-gnu/perl5; do
    farm "$dir"
  done
  libs=$out/lib/x86_64-linux-gnu
  perl5lib=$out/share/perl5:$out/share/perl/5.36:$libs/perl/5.36:$libs/perl5/5.36:$libs/perl-base
  wrap perl "$(find1 bin/perl)" "export PERL5LIB=$perl5lib"
}

# gcc (and g++, if its package is there) that finds headers, libraries and the linker of the environment.
gcc() {
  farm lib/gcc/x86_64-linux-gnu
  farm include
  farm lib/x86_64-linux-gnu
  for name in as ld ar ranlib nm strip objdump; do ln -sfn "$(find1 "bin/x86_64-linux-gnu-$name")" "bin/$name"; done
  libs=$out/lib/x86_64-linux-gnu
  flags="-B$out/lib/gcc/x86_64-linux-gnu/12/ -B$libs/ -B$out/bin/"
  flags="$flags -isystem $out/include/x86_64-linux-gnu -isystem $out/include"
  flags="$flags -L$libs -Wl,-dynamic-linker=$loader -Wl,-rpath=$libs"
  wrap gcc "$(find1 bin/x86_64-linux-gnu-gcc-12)" "" "$flags"
  wrap cc "$(find1 bin/x86_64-linux-gnu-gcc-12)" "" "$flags"
  if [ -e "bin/x86_64-linux-gnu-g++-12" ]; then
    cxx="-isystem $out/include/c++/12 -isystem $out/include/x86_64-linux-gnu/c++/12"
    wrap g++ "$(find1 bin/x86_64-linux-gnu-g++-12)" "" "$cxx $flags"
  fi
}
