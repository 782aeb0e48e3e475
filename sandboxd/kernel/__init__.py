"""One thin function per system call: no policy, the man page's names, failures as KernelError. Imports `errors` only."""
