/* Entries and exits of the kernel.

   Each kernel entry runs on an empty kernel stack: a thread that does not go on at once has all of
   its state in its frame, so nothing is ever left on the stack. `kernel_*` are Rust functions. */

.section .text.entry, "ax"
.global kernel_start
.type kernel_start, @function
kernel_start:
    /* On the boot stub's stack; rdi = physical address of the boot information. */
    xor ebp, ebp
    jmp kernel_main

.text
/* SYSCALL: rcx = return address, r11 = flags, eax = number, rdi, rsi, rdx = arguments.
   The stack pointer is still the caller's until the second instruction; an NMI, machine check or
   debug exception in between runs on a stack of its own. */
.balign 16
.global syscall_entry
.type syscall_entry, @function
syscall_entry:
    mov [{RSP}], rsp
    mov rsp, {STACK_TOP}
    mov [{RIP}], rcx
    mov [{RFLAGS}], r11
    mov [{RBP}], rbp                /* for the backtrace of a call that is a fault */
    cmp eax, {SIGNAL}
    jne 3f
    call kernel_signal
    test rax, rax
    js 2f
    /* rax holds the status; the callee-saved registers are the caller's again. (Negative, it is
       the address of the function that ends the call, with rdx as its argument.) */
    mov rcx, [{RIP}]
    mov r11, [{RFLAGS}]
    xor edx, edx
    xor esi, esi
    xor edi, edi
    xor r8d, r8d
    xor r9d, r9d
    xor r10d, r10d
    mov rsp, [{RSP}]
    sysretq
2:  mov rdi, rdx
4:  /* From here on nothing of the caller is left in registers that functions push. */
    mov qword ptr [{VECTOR}], {BY_SYSCALL}
    mov [{RBX}], rbx
    mov [{R12}], r12
    mov [{R13}], r13
    mov [{R14}], r14
    mov [{R15}], r15
    xor ebp, ebp
    xor ebx, ebx
    xor r12d, r12d
    xor r13d, r13d
    xor r14d, r14d
    xor r15d, r15d
    call rax
    test eax, eax
    jnz reschedule
    jmp return_by_sysret
3:  mov ecx, eax
    lea rax, [rip + kernel_vcpu_run]
    cmp ecx, {VCPU_RUN}
    je 4b
    lea rax, [rip + kernel_syscall]
    jmp 4b
.size syscall_entry, . - syscall_entry

.balign 16
.type interrupt_common, @function
interrupt_common:
    push rax
    push rbx
    push rcx
    push rdx
    push rsi
    push rdi
    push rbp
    push r8
    push r9
    push r10
    push r11
    push r12
    push r13
    push r14
    push r15
    push 2                          /* clears AC, so that SMAP holds, and the direction flag */
    popfq
    mov rdi, rsp
    test byte ptr [rsp + {CS_FROM_REGS}], 3
    jz 1f
    mov rsp, {STACK_TOP}
    xor ebp, ebp
    xor ebx, ebx
    xor r12d, r12d
    xor r13d, r13d
    xor r14d, r14d
    xor r15d, r15d
    call kernel_interrupt
    test eax, eax
    jnz reschedule
.global return_by_iret
return_by_iret:
    mov rsp, {REGS}
    pop r15
    pop r14
    pop r13
    pop r12
    pop r11
    pop r10
    pop r9
    pop r8
    pop rbp
    pop rdi
    pop rsi
    pop rdx
    pop rcx
    pop rbx
    pop rax
    add rsp, 16
    iretq
1:  /* From the kernel: legal only while it idles. */
    and rsp, -16
    call kernel_interrupt_idle

.global reschedule
reschedule:
    mov rsp, {STACK_TOP}
    xor ebp, ebp
    call kernel_reschedule          /* goes on at one of the two returns */
    ud2
.global return_by_sysret
return_by_sysret:
    mov rbx, [{RBX}]
    mov rbp, [{RBP}]
    mov r12, [{R12}]
    mov r13, [{R13}]
    mov r14, [{R14}]
    mov r15, [{R15}]
    mov rax, [{RAX}]
    mov rdx, [{RDX}]
    mov rsi, [{RSI}]
    mov rdi, [{RDI}]
    mov r8, [{R8}]
    xor r9d, r9d
    xor r10d, r10d
    mov rcx, [{RIP}]
    mov r11, [{RFLAGS}]
    mov rsp, [{RSP}]
    sysretq
.size interrupt_common, . - interrupt_common

/* The guest has exited: its monitor goes on behind `vcpu_run`, whose registers are in the frame. */
.balign 16
.global return_to_monitor
.type return_to_monitor, @function
return_to_monitor:
    mov eax, {EXIT}
    xor edx, edx
    xor esi, esi
    xor edi, edi
    xor r8d, r8d
    xor r9d, r9d
    xor r10d, r10d
    mov rbx, [{RBX}]
    mov rbp, [{RBP}]
    mov r12, [{R12}]
    mov r13, [{R13}]
    mov r14, [{R14}]
    mov r15, [{R15}]
    mov rcx, [{RIP}]
    mov r11, [{RFLAGS}]
    mov rsp, [{RSP}]
    sysretq
.size return_to_monitor, . - return_to_monitor

/* One stub of 16 bytes for each vector; those with an error code from the CPU push none. */
.balign 16
.global interrupt_stubs
interrupt_stubs:
.set vector, 0
.rept 256
    .balign 16
    .if (vector != 8) && ((vector < 10) || (vector > 14)) && (vector != 17) && (vector != 21) && (vector != 29) && (vector != 30)
        push 0
    .endif
    push vector
    jmp interrupt_common
    .set vector, vector + 1
.endr

/* NMI: counts in the core's own record and touches nothing else. */
.balign 16
.global nmi_entry
.type nmi_entry, @function
nmi_entry:
    lock inc qword ptr [{NMI_COUNT}]
    iretq

/* Debug exception, on a stack of its own, because a single step can arrive at the first
   instruction of syscall_entry, where the stack pointer is the caller's. */
.balign 16
.global debug_entry
.type debug_entry, @function
debug_entry:
    test byte ptr [rsp + 8], 3
    jnz 1f
    and qword ptr [rsp + 16], ~0x100
    iretq
1:  /* From ring 3: move the interrupt frame into the thread's frame and go the common way. */
    mov [{RAX}], rax
    mov rax, [rsp]
    mov [{RIP}], rax
    mov rax, [rsp + 8]
    mov [{CS}], rax
    mov rax, [rsp + 16]
    mov [{RFLAGS}], rax
    mov rax, [rsp + 24]
    mov [{RSP}], rax
    mov rax, [rsp + 32]
    mov [{SS}], rax
    mov rax, [{RAX}]
    mov rsp, {RIP}
    push 0
    push 1
    jmp interrupt_common

.balign 16
.global double_fault_entry
.type double_fault_entry, @function
double_fault_entry:
    mov edi, 8
    mov rsi, [rsp + 8]
    mov rdx, [rsp + 32]
    /* Nothing returns from here, so the kernel stack is free, whatever overflowed it. */
    mov rsp, {STACK_TOP}
    call kernel_fatal
    ud2

.balign 16
.global machine_check_entry
.type machine_check_entry, @function
machine_check_entry:
    mov edi, 18
    mov rsi, [rsp]
    mov rdx, [rsp + 24]
    mov rsp, {STACK_TOP}
    call kernel_fatal
    ud2

/* rdi = top page table, esi = core. */
.balign 16
.global first_entry
.type first_entry, @function
first_entry:
    mov cr3, rdi
    mov rsp, {STACK_TOP}
    xor ebp, ebp
    mov edi, esi
    call kernel_core
    ud2

/* A started core: find who we are by the APIC id and go on like the boot core. No stack yet. */
.balign 16
.global ap_entry
.type ap_entry, @function
ap_entry:
    xor eax, eax
    cpuid
    cmp eax, 0xb
    jb 1f
    mov eax, 0xb
    xor ecx, ecx
    cpuid
    mov edi, edx
    test ebx, ebx                   /* leaf 0xb is there if it names logical processors */
    jnz 2f
1:  mov eax, 1
    cpuid
    shr ebx, 24
    mov edi, ebx
2:  lea rbx, [rip + AP_LIST]
    xor esi, esi
3:  cmp dword ptr [rbx], 0          /* not asked for */
    je 4f
    cmp [rbx + 4], edi
    je 5f
4:  add rbx, 16
    inc esi
    cmp esi, 16
    jne 3b
    cli
6:  hlt
    jmp 6b
5:  mov rdi, [rbx + 8]
    jmp first_entry
