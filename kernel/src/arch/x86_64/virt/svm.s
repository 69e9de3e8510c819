/* World switch of AMD SVM (AMD APM volume 2, "VMRUN and #VMEXIT").

   The general registers go through the page that kernel and monitor share; everything else of the
   guest is in the control block. Interrupts: with the global interrupt flag clear nothing can
   arrive, and with host IF set a pending interrupt ends the guest's turn before it begins. */

.text
.balign 16
.global svm_enter
.type svm_enter, @function
svm_enter:
    mov rsp, {STACK_TOP}
    mov rax, [{CONTROL}]
    vmload rax
    mov rcx, [{STATE} + 0x08]
    mov rdx, [{STATE} + 0x10]
    mov rbx, [{STATE} + 0x18]
    mov rbp, [{STATE} + 0x28]
    mov rsi, [{STATE} + 0x30]
    mov rdi, [{STATE} + 0x38]
    mov r8,  [{STATE} + 0x40]
    mov r9,  [{STATE} + 0x48]
    mov r10, [{STATE} + 0x50]
    mov r11, [{STATE} + 0x58]
    mov r12, [{STATE} + 0x60]
    mov r13, [{STATE} + 0x68]
    mov r14, [{STATE} + 0x70]
    clgi
    sti
    # An instruction between STI and VMRUN: QEMU 7.2 takes the shadow of STI into the guest, whose
    # waiting interrupt would then come one instruction late.
    mov r15, [{STATE} + 0x78]
    vmrun rax
    cli
    mov [{STATE} + 0x08], rcx
    mov [{STATE} + 0x10], rdx
    mov [{STATE} + 0x18], rbx
    mov [{STATE} + 0x28], rbp
    mov [{STATE} + 0x30], rsi
    mov [{STATE} + 0x38], rdi
    mov [{STATE} + 0x40], r8
    mov [{STATE} + 0x48], r9
    mov [{STATE} + 0x50], r10
    mov [{STATE} + 0x58], r11
    mov [{STATE} + 0x60], r12
    mov [{STATE} + 0x68], r13
    mov [{STATE} + 0x70], r14
    mov [{STATE} + 0x78], r15
    vmsave rax
    mov rax, [{HOST}]
    vmload rax
    stgi
    /* Nothing of the guest stays in registers that the kernel's code could speculate with. */
    xor ecx, ecx
    xor edx, edx
    xor ebx, ebx
    xor ebp, ebp
    xor esi, esi
    xor edi, edi
    xor r8d, r8d
    xor r9d, r9d
    xor r10d, r10d
    xor r11d, r11d
    xor r12d, r12d
    xor r13d, r13d
    xor r14d, r14d
    xor r15d, r15d
    call kernel_svm_exit
    cmp eax, 1
    je reschedule
    cmp eax, 2
    je svm_enter
    /* A host interrupt is pending: let it in, as if the core idled. */
    sti
    nop
    cli
    jmp reschedule
.size svm_enter, . - svm_enter
