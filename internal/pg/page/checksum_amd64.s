#include "textflag.h"

// The bytes of the first 32 that count: pd_checksum (bytes 8 and 9) is summed as zero.
DATA keep<>+0(SB)/8, $0xFFFFFFFFFFFFFFFF
DATA keep<>+8(SB)/8, $0xFFFFFFFFFFFF0000
DATA keep<>+16(SB)/8, $0xFFFFFFFFFFFFFFFF
DATA keep<>+24(SB)/8, $0xFFFFFFFFFFFFFFFF
GLOBL keep<>(SB), RODATA|NOPTR, $32

// One step of 8 lanes: t = sum ^ in; sum = t*prime ^ t>>17. in is overwritten; tmp is scratch.
#define STEP(sum, in, tmp) \
	VPXOR   sum, in, in   \
	VPSRLD  $17, in, tmp  \
	VPMULLD Y8, in, in    \
	VPXOR   in, tmp, sum

// The closing step, whose input is zero.
#define CLOSE(sum, tmp) \
	VPSRLD  $17, sum, tmp \
	VPMULLD Y8, sum, sum  \
	VPXOR   sum, tmp, sum

// func foldAVX2(page *byte, basis *[32]uint32) uint32
//
// Y0-Y3 hold the 32 lanes, Y8 the prime. The caller guarantees 8192 bytes at page.
TEXT ·foldAVX2(SB), NOSPLIT, $0-20
	MOVQ page+0(FP), SI
	MOVQ basis+8(FP), DI
	VMOVDQU 0(DI), Y0
	VMOVDQU 32(DI), Y1
	VMOVDQU 64(DI), Y2
	VMOVDQU 96(DI), Y3
	MOVL $16777619, AX
	VMOVD AX, X8
	VPBROADCASTD X8, Y8

	// The first row, without pd_checksum.
	VMOVDQU 0(SI), Y4
	VPAND keep<>(SB), Y4, Y4
	VMOVDQU 32(SI), Y5
	VMOVDQU 64(SI), Y6
	VMOVDQU 96(SI), Y7
	STEP(Y0, Y4, Y9)
	STEP(Y1, Y5, Y10)
	STEP(Y2, Y6, Y11)
	STEP(Y3, Y7, Y12)
	ADDQ $128, SI
	MOVQ $63, CX

row:
	VMOVDQU 0(SI), Y4
	VMOVDQU 32(SI), Y5
	VMOVDQU 64(SI), Y6
	VMOVDQU 96(SI), Y7
	STEP(Y0, Y4, Y9)
	STEP(Y1, Y5, Y10)
	STEP(Y2, Y6, Y11)
	STEP(Y3, Y7, Y12)
	ADDQ $128, SI
	DECQ CX
	JNZ  row

	CLOSE(Y0, Y9)
	CLOSE(Y1, Y10)
	CLOSE(Y2, Y11)
	CLOSE(Y3, Y12)
	CLOSE(Y0, Y9)
	CLOSE(Y1, Y10)
	CLOSE(Y2, Y11)
	CLOSE(Y3, Y12)

	// Fold the lanes into one by exclusive or.
	VPXOR Y1, Y0, Y0
	VPXOR Y3, Y2, Y2
	VPXOR Y2, Y0, Y0
	VEXTRACTI128 $1, Y0, X1
	VPXOR X1, X0, X0
	VPSHUFD $0x4E, X0, X1
	VPXOR X1, X0, X0
	VPSHUFD $0xB1, X0, X1
	VPXOR X1, X0, X0
	VMOVD X0, AX
	VZEROUPPER
	MOVL AX, ret+16(FP)
	RET
