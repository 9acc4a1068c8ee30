/* A processor's first instructions: from reset to 64-bit mode with every vector unit enabled,
 * then to the program, which is copied to 2 MiB. Stands in for a BIOS: nothing is ever asked of one.
 * The program and its work lie before this in the same read-only memory. */
#define PAGES 0x10000 /* PML4, then the PDPT, then four directories of 2 MiB pages */
#define STACK 0x1f0000
#define PROGRAM 0x200000

    .section .rom, "ax"
program_at: .long 0 /* these three are filled in when the memory is put together */
program_bytes: .long 0
work_at: .long 0
    .code16
start16:
    cli
    cs lgdtl gdt_pointer - 0xffff0000
    movl %cr0, %eax
    orl $1, %eax
    movl %eax, %cr0
    ljmpl $0x08, $start32

    .code32
start32:
    movw $0x10, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movl $PAGES, %edi
    xorl %eax, %eax
    movl $(6 * 1024), %ecx
    rep stosl
    movl $(PAGES + 0x1003), PAGES
    movl $(PAGES + 0x2003), PAGES + 0x1000
    movl $(PAGES + 0x3003), PAGES + 0x1008
    movl $(PAGES + 0x4003), PAGES + 0x1010
    movl $(PAGES + 0x5003), PAGES + 0x1018
    movl $(PAGES + 0x2000), %edi
    movl $0x83, %eax
    movl $2048, %ecx
1:  movl %eax, (%edi)
    addl $0x200000, %eax
    addl $8, %edi
    loop 1b
    movl $PAGES, %eax
    movl %eax, %cr3
    movl $0x620, %eax            /* PAE, OSFXSR, OSXMMEXCPT */
    movl %eax, %cr4
    movl $0xc0000080, %ecx
    movl $0x100, %eax            /* EFER.LME */
    xorl %edx, %edx
    wrmsr
    movl $0x80010023, %eax       /* paging, write protection, native errors, protection */
    movl %eax, %cr0
    ljmpl $0x18, $start64

    .code64
start64:
    movl $1, %eax
    cpuid
    btl $26, %ecx                /* XSAVE: without it there are only SSE registers */
    jnc 2f
    movq %cr4, %rax
    orl $0x40000, %eax
    movq %rax, %cr4
    movl $0xd, %eax
    xorl %ecx, %ecx
    cpuid
    andl $0xe7, %eax             /* x87, SSE, AVX, the three parts of AVX-512 */
    xorl %ecx, %ecx
    xorl %edx, %edx
    xsetbv
2:  movl $STACK, %esp
    cld
    movl program_at(%rip), %esi
    movl program_bytes(%rip), %ecx
    movl $PROGRAM, %edi
    rep movsb
    movl work_at(%rip), %edi
    movl $PROGRAM, %eax
    call *%rax

    .balign 8
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff     /* 0x08: 32-bit code */
    .quad 0x00cf93000000ffff     /* 0x10: data */
    .quad 0x00af9b000000ffff     /* 0x18: 64-bit code */
gdt_pointer:
    .word 31
    .long gdt

    .section .reset, "ax"
    .code16
    jmp start16
    .org 16
    .section .note.GNU-stack, "", @progbits
