/* PVH entry (Xen "x86/HVM direct boot ABI"): 32-bit protected mode, paging off, ebx = start info.
   The multiboot2 entry ("Multiboot2 Specification", "Machine state") differs in registers only. */
.section .note.Xen, "a", @note
.balign 4
.long 4, 8, 18                      /* name size, descriptor size, XEN_ELFNOTE_PHYS32_ENTRY */
.asciz "Xen"
.quad stub_start32

.section .multiboot2, "a"
.balign 8
stub_multiboot2:
    .long 0xe85250d6, 0, 9f - stub_multiboot2, -(0xe85250d6 + 9f - stub_multiboot2)
    .short 3, 0                     /* entry address */
    .long 12, stub_multiboot32, 0
    .short 0, 0
    .long 8
9:

.section .text.start32, "ax"
.code32
/* multiboot2: eax = magic, ebx = information, 8-byte aligned. Bit 0 tells the two loaders apart. */
.global stub_multiboot32
.type stub_multiboot32, @function
stub_multiboot32:
    or ebx, 1
    cmp eax, 0x36d76289
    je stub_start32
    xor ebx, ebx

.global stub_start32
.type stub_start32, @function
stub_start32:
    cli
    cld
    mov esp, offset stub_stack_top
    rdtsc
    mov [stub_tsc], eax
    mov [stub_tsc + 4], edx

    /* Long mode and no-execute pages, or a line that says they are missing. */
    mov eax, 0x80000000
    push ebx
    cpuid
    cmp eax, 0x80000001
    jb 9f
    mov eax, 0x80000001
    cpuid
    and edx, (1 << 29) | (1 << 20)
    cmp edx, (1 << 29) | (1 << 20)
    jne 9f
    pop ebx

    /* One-to-one map of the first 4 GiB in 2 MiB pages. */
    mov eax, offset stub_pdpt + 3
    mov [stub_pml4], eax
    mov eax, offset stub_pd + 3
    xor ecx, ecx
2:  mov [stub_pdpt + ecx * 8], eax
    add eax, 4096
    inc ecx
    cmp ecx, 4
    jne 2b
    mov eax, 0x83
    xor ecx, ecx
3:  mov [stub_pd + ecx * 8], eax
    add eax, 0x200000
    inc ecx
    cmp ecx, 2048
    jne 3b

    mov eax, cr4
    or eax, 0x20                    /* PAE */
    mov cr4, eax
    mov eax, offset stub_pml4
    mov cr3, eax
    mov ecx, 0xc0000080             /* EFER: LME, NXE */
    rdmsr
    or eax, 0x900
    wrmsr
    mov eax, cr0
    or eax, 0x80010001              /* PG, WP, PE */
    mov cr0, eax
    lgdt [stub_gdtr]
    mov eax, offset stub_start64
    push 8
    push eax
    retf

9:  mov esi, offset stub_no_long
8:  mov dx, 0x3fd
    in al, dx
    test al, 0x20
    jz 8b
    mov al, [esi]
    test al, al
    jz 7f
    mov dx, 0x3f8
    out dx, al
    inc esi
    jmp 8b
7:  hlt
    jmp 7b

.code64
stub_start64:
    mov ax, 16
    mov ds, ax
    mov es, ax
    mov ss, ax
    xor eax, eax
    mov fs, ax
    mov gs, ax
    mov rsp, offset stub_stack_top
    mov edi, ebx
    call stub_main
1:  hlt
    jmp 1b

/* crc32c over `rsi` 64-byte groups at `rdi`, seed in edx; result in eax. */
.global stub_crc32c
.type stub_crc32c, @function
stub_crc32c:
    mov eax, edx
1:  crc32 rax, qword ptr [rdi]
    crc32 rax, qword ptr [rdi + 8]
    crc32 rax, qword ptr [rdi + 16]
    crc32 rax, qword ptr [rdi + 24]
    crc32 rax, qword ptr [rdi + 32]
    crc32 rax, qword ptr [rdi + 40]
    crc32 rax, qword ptr [rdi + 48]
    crc32 rax, qword ptr [rdi + 56]
    add rdi, 64
    dec rsi
    jnz 1b
    ret

.section .rodata
.balign 8
stub_gdt: .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff
stub_gdtr: .short 23
    .long stub_gdt
stub_no_long: .asciz "cloister: refused: this CPU has no 64-bit mode or no NX\r\n"

.section .bss
.balign 4096
.global stub_pml4
stub_pml4: .skip 4096
stub_pdpt: .skip 4096
stub_pd: .skip 16384
.global stub_high_tables
stub_high_tables: .skip 12288
/* The kernel boots on this stack too, and keeps what it knows until the seal here. */
    .skip 65536
stub_stack_top:
.global stub_tsc
stub_tsc: .skip 8
