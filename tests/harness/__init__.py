"""What the end-to-end tests and the demo are made of.

    cache     things that take long to make, made once
    debian    a kernel and a package source, as this machine's apt has them
    cpio      the archive format of an initramfs
    qemu      one QEMU machine: its console read line by line, and the accelerator that works here
    guest, guest_image     a small Linux with the kernel's NFS client, which runs a script; what it is made of
    sample_vm, sample_disk a bootable Debian VM that takes orders on its console; its .vmx and .vmdk
    nfs3      an NFSv3 client of a few calls, for load and for bad input
    bystander a client that reads on in a process of its own, and times each READ
    crowd     hostile clients, kind by kind
    daemon    the real `rekindle` as a process: start, wait until ready, SIGKILL, read its log
    recovery  a repository, a backup in it, a recovery that serves
    vsphere_story  a recovery through a stand-in for vSphere
    stories   how a story is run as a program
    timeline  steps with their times, printed as they happen
    bench_rows, bench_scale     what scripts/bench measures, and how it is told
    bench_servers, bench_worker the servers it measures; each in a network of its own, taking orders

Python's standard library only. Debian packages come from scripts/setup.
"""
