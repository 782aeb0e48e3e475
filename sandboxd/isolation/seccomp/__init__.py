"""The seccomp wall as data: which system calls an env may make, why not the others, and the BPF program that says so."""
