/* Entries and exits of the kernel.

   Each kernel entry runs on an empty kernel stack: a thread that does not go on at once has all of
   its state in its frame, so nothing is ever left on the stack. `kernel_*` are Rust functions. */

/* The beginning of a function that other files name. */
.macro function name
    .balign 16
    .global \name
    .type \name, @function
\name:
.endm

/* Zeroes registers: nothing of the caller, or of the kernel, stays in them. */
.macro clear registers:vararg
    .irp register, \registers
    xor \register, \register
    .endr
.endm

/* Back to ring 3; the other registers are the caller's already. */
.macro return_to_caller
    mov rcx, [{RIP}]
    mov r11, [{RFLAGS}]
    mov rsp, [{RSP}]
    sysretq
.endm

/* The registers that a system call keeps, but rbp, into the frame. Afterwards nothing of the caller
   is left in registers that functions push. */
.macro keep
    mov qword ptr [{VECTOR}], {BY_SYSCALL}
    mov [{RBX}], rbx
    mov [{R12}], r12
    mov [{R13}], r13
    mov [{R14}], r14
    mov [{R15}], r15
    clear ebp, ebx, r12d, r13d, r14d, r15d
.endm

/* And back. */
.macro restore_kept
    mov rbx, [{RBX}]
    mov rbp, [{RBP}]
    mov r12, [{R12}]
    mov r13, [{R13}]
    mov r14, [{R14}]
    mov r15, [{R15}]
.endm

.section .text.entry, "ax"
function kernel_start
    /* On the boot stub's stack; rdi = physical address of the boot information. */
    xor ebp, ebp
    jmp kernel_main

.text
/* SYSCALL: rcx = return address, r11 = flags, eax = number, rdi, rsi, rdx = arguments.
   The stack pointer is still the caller's until the second instruction; an NMI, machine check or
   debug exception in between runs on a stack of its own. */
function syscall_entry
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
    clear edx, esi, edi, r8d, r9d, r10d
    return_to_caller
2:  mov rdi, rdx
    jmp 4f
3:  cmp eax, {VCPU_RUN}
    je 6f
    mov ecx, eax
    lea rax, [rip + kernel_syscall]
4:  keep
    call rax
5:  test eax, eax
    jnz reschedule
    jmp return_by_sysret
6:  keep
    call kernel_vcpu_run
    jmp 5b
.size syscall_entry, . - syscall_entry

function interrupt_common
    .irp register, rax, rbx, rcx, rdx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15
    push \register
    .endr
    push 2                          /* clears AC, so that SMAP holds, and the direction flag */
    popfq
    mov rdi, rsp
    test byte ptr [rsp + {CS_FROM_REGS}], 3
    jz 1f
    mov rsp, {STACK_TOP}
    clear ebp, ebx, r12d, r13d, r14d, r15d
    call kernel_interrupt
    test eax, eax
    jnz reschedule
.global return_by_iret
return_by_iret:
    mov rsp, {REGS}
    .irp register, r15, r14, r13, r12, r11, r10, r9, r8, rbp, rdi, rsi, rdx, rcx, rbx, rax
    pop \register
    .endr
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
    restore_kept
    mov rax, [{RAX}]
    mov rdx, [{RDX}]
    mov rsi, [{RSI}]
    mov rdi, [{RDI}]
    mov r8, [{R8}]
    clear r9d, r10d
    return_to_caller
.size interrupt_common, . - interrupt_common

/* The guest has exited: its monitor goes on behind `vcpu_run`, whose registers are in the frame. */
.global return_to_monitor
function return_to_monitor
    mov eax, {EXIT}
    clear edx, esi, edi, r8d, r9d, r10d
    restore_kept
    return_to_caller
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

/* NMI: counts in the core's own record and touches nothing else; while the machine goes down it
   stops every core but the one that speaks. */
function nmi_entry
    lock inc qword ptr [{NMI_COUNT}]
    push rax
    mov eax, [rip + {GOING_DOWN}]
    sub eax, 1
    jc 1f
    cmp eax, [{APIC_ID}]
    jne 2f
1:  pop rax
    iretq
2:  lock inc dword ptr [rip + {STOPPED}]
3:  hlt
    jmp 3b

/* Debug exception, on a stack of its own, because a single step can arrive at the first
   instruction of syscall_entry, where the stack pointer is the caller's. */
function debug_entry
    test byte ptr [rsp + 8], 3
    jnz 1f
    and qword ptr [rsp + 16], ~0x100
    iretq
1:  /* From ring 3: move the interrupt frame into the thread's frame and go the common way. */
    pop qword ptr [{RIP}]
    pop qword ptr [{CS}]
    pop qword ptr [{RFLAGS}]
    pop qword ptr [{RSP}]
    pop qword ptr [{SS}]
    mov rsp, {RIP}
    push 0
    push 1
    jmp interrupt_common

function double_fault_entry
    mov edi, 8
    jmp 1f

function machine_check_entry
    mov edi, 18
    sub rsp, 8                      /* where a double fault has its error code */
1:  mov rsi, [rsp + 8]
    mov rdx, [rsp + 32]
    /* Nothing returns from here, so the kernel stack is free, whatever overflowed it. */
    mov rsp, {STACK_TOP}
    call kernel_fatal
    ud2

/* rdi = top page table, esi = core. */
function first_entry
    mov cr3, rdi
    mov rsp, {STACK_TOP}
    xor ebp, ebp
    mov edi, esi
    call kernel_core
    ud2

/* A started core: find who we are by the APIC id and go on like the boot core. No stack yet. Ids
   above 0xfe are refused by `start_core`, so the 8 bits of leaf 1 tell cores apart. */
function ap_entry
    mov eax, 1
    cpuid
    shr ebx, 24
    mov edi, ebx
    lea rbx, [rip + AP_LIST]
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
