"""Machine code for plain OSNets, compiled by LLVM when a network is loaded. See ``docs/native.md``."""
