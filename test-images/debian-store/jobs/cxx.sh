cat >a.cc <<'C'
#include <iostream>
#include <stdexcept>
#include <vector>
int main() {
  try { std::vector<int>{}.at(1); } catch (const std::out_of_range &) { std::cout << "caught\n"; }
}
C
g++ a.cc -o a && ./a | grep -x caught
cmake --version | head -1 | grep -q 'cmake version'
gdb --version >gdb.txt && grep -q GNU gdb.txt
