"""Machine code for plain OSNets on a CPU, compiled by LLVM when a network is loaded. See docs/native.md."""
