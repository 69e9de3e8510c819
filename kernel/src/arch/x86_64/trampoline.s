/* Copied to 0x8000; a started core begins here in real mode with cs = 0x800. */
.section .rodata
.balign 16
.code16
.global trampoline
trampoline:
    jmp 1f
    .balign 8
    .quad 0                         /* +8: top page table */
    .quad 0                         /* +16: 64-bit entry */
    .balign 8
    .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff     /* +24: segments */
    .short 23                       /* +48: their address */
    .long 0x8018
1:  cli
    cld
    xor ax, ax
    mov ds, ax
    mov eax, cr4
    or eax, 0x20
    mov cr4, eax
    mov eax, [0x8008]
    mov cr3, eax
    mov ecx, 0xc0000080
    rdmsr
    or eax, 0x900                   /* LME, NXE */
    wrmsr
    .byte 0x66
    lgdt [0x8030]
    mov eax, cr0
    or eax, 0x80010001
    and eax, 0x9fffffff             /* caches on */
    mov cr0, eax
    .byte 0x66, 0xea
    .long 0x8000 + (4f - trampoline)
    .short 8
.code64
4:  mov ax, 16
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov rax, [0x8010]
    jmp rax
.global trampoline_end
trampoline_end:
.text
.code64
