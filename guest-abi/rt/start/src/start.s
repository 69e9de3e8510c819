/* Start of vCPU 0: 32-bit protected mode, flat segments, paging off, no stack, RAM unknown.
   cloister_guest_abi::image says what the guest finds when this is done. */
.section .text.start, "ax"
.code32
.global guest_start
.type guest_start, @function
guest_start:
    cli
    cld
    rdtsc                           /* When the guest began, kept until there is a place for it. */
    mov esi, eax
    mov ebp, edx

    /* The pages that are built here are zeroed before they are used; the rest of RAM, which takes
       64-bit addresses and longer, afterwards. */
    xor eax, eax
    mov edi, {PAGE_TABLES}
    mov ecx, ({BUILT_END} - {PAGE_TABLES}) / 4
    rep stosd
    mov [{STARTED}], esi
    mov [{STARTED} + 4], ebp

    /* One-to-one map of the first 4 GiB: top table, pointers, four directories of 2 MiB pages.
       Bits: 1 present, 2 writable, 0x80 large. */
    mov dword ptr [{PAGE_TABLES}], {PAGE_TABLES} + 0x1000 + 3
    mov edi, {PAGE_TABLES} + 0x1000
    mov eax, {PAGE_TABLES} + 0x2000 + 3
    mov ecx, 4
1:  mov [edi], eax
    add edi, 8
    add eax, 0x1000
    dec ecx
    jnz 1b
    mov edi, {PAGE_TABLES} + 0x2000
    mov eax, 0x83
    mov ecx, 4 * 512
2:  mov [edi], eax
    add edi, 8
    add eax, 0x200000
    dec ecx
    jnz 2b

    /* The descriptors of the 64-bit boot protocol (Linux "The Linux/x86 Boot Protocol", "64-bit
       BOOT PROTOCOL"): code at 0x10, data at 0x18, accessed so that the CPU writes neither. */
    mov dword ptr [{GDT} + 0x10], 0x0000ffff
    mov dword ptr [{GDT} + 0x14], 0x00af9b00
    mov dword ptr [{GDT} + 0x18], 0x0000ffff
    mov dword ptr [{GDT} + 0x1c], 0x00cf9300
    lgdt [guest_gdtr]

    mov eax, 0x20                   /* PAE */
    mov cr4, eax
    mov eax, {PAGE_TABLES}
    mov cr3, eax
    mov ecx, 0xc0000080             /* EFER: LME */
    rdmsr
    or eax, 0x100
    wrmsr
    mov eax, 0x80000011             /* PG, ET, PE */
    mov cr0, eax
    .byte 0xea                      /* A far jump, which the assembler has no Intel form for. */
    .long guest_start64
    .short 0x10

.code64
guest_start64:
    mov eax, 0x18
    mov ds, eax
    mov es, eax
    mov ss, eax
    xor eax, eax
    mov fs, eax
    mov gs, eax

    /* All RAM, but for the pages above, which are in use and hold nothing else. */
    xor edi, edi
    mov ecx, {PAGE_TABLES} / 8
    rep stosq
    mov r8d, {HEADER}
    mov edi, {BUILT_END}
    mov rcx, [r8 + {MEMORY}]
    sub rcx, rdi
    shr rcx, 3
    rep stosq

    mov ebp, [r8 + {SEGMENTS}]
    lea rdx, [r8 + {HEADER_LEN}]
3:  test ebp, ebp
    jz 4f
    mov rsi, [rdx + {FROM}]
    mov rdi, [rdx + {TO}]
    mov rcx, [rdx + {LEN}]
    shr rcx, 3
    rep movsq
    add rdx, {SEGMENT_LEN}
    dec ebp
    jmp 3b

4:  mov eax, {TIMING_LEAF}
    xor ecx, ecx
    cpuid
    mov r9d, eax

    /* The frequency in decimal, left-aligned with spaces behind it: a leading zero would make it
       octal for Linux, and spaces end a word of its command line. */
    mov r10, [r8 + {KHZ_AT}]
    test r10, r10
    jz 7f
    mov rdi, r10
    mov al, 0x20
    mov ecx, {KHZ_DIGITS}
    rep stosb
    mov ecx, 10
    mov eax, r9d
5:  inc r10                         /* One place for each digit … */
    xor edx, edx
    div ecx
    test eax, eax
    jnz 5b
    mov eax, r9d
6:  dec r10                         /* … which are filled from the last one backwards. */
    xor edx, edx
    div ecx
    add dl, 0x30
    mov [r10], dl
    test eax, eax
    jnz 6b

7:  mov edi, r9d
    mov rsi, [r8 + {ARGUMENT}]
    mov rsp, [r8 + {STACK}]
    mov rax, [r8 + {ENTRY}]
    xor ebx, ebx
    xor ecx, ecx
    xor edx, edx
    xor ebp, ebp
    xor r8d, r8d
    xor r9d, r9d
    xor r10d, r10d
    jmp rax

.balign 8
guest_gdtr:
    .short 31
    .long {GDT}

/* Second part, the `entry` of guests that begin in 32-bit mode: rsp holds the address of their
   code, esi what they find in ebx. The mode is left as the AMD64 manual says (volume 2, "Leaving
   Long Mode"); the registers are those of the PVH protocol. */
.org {START_32} - {START}
.code64
guest_start32:
    mov ebx, esi
    mov edi, esp
    lgdt [rip + guest_gdtr32]
    jmp fword ptr [rip + guest_leave]

.code32
guest_left:
    mov eax, 0x18
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov fs, eax
    mov gs, eax
    mov eax, 0x11                   /* ET, PE: no paging any more */
    mov cr0, eax
    mov ecx, 0xc0000080             /* EFER: no LME */
    rdmsr
    and eax, ~0x100
    wrmsr
    xor eax, eax
    mov cr4, eax
    xor ecx, ecx
    xor edx, edx
    xor esi, esi
    xor ebp, ebp
    xor esp, esp
    jmp edi

.balign 8
guest_gdt32:
    .quad 0, 0, 0x00cf9b000000ffff, 0x00cf93000000ffff
guest_gdtr32:
    .short 31
    .quad guest_gdt32
guest_leave:
    .long guest_left
    .short 0x10
