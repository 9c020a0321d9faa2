cat >a.cc <<'C'
#include <iostream>
#include <stdexcept>
#include <vector>
int main() {
  try { std::vector<int>{}.at(1); } catch (const std::out_of_range &) { std::cout << "caught\n"; }
}
C
printf 'cmake_minimum_required(VERSION 3.25)\nproject(a CXX)\nadd_executable(a a.cc)\n' >CMakeLists.txt
CXX=g++ cmake . >/dev/null && make >/dev/null
gdb --batch -ex 'python print(6 * 7)' | grep -qx 42
./a | grep -x caught
