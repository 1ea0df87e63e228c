/* The stack interpreter of the sample VM: three bytecodes. */
#include "sample.h"

const char interpreterName[] = "Stack";

long interpret(void)
{
    enum { push, multiply, answer };
    static const unsigned char method[] = {push, 6, push, 7, multiply, answer};
    long stack[4];
    int sp = 0;
    for (const unsigned char *pc = method;; pc++)
        switch (*pc) {
        case push: stack[sp++] = *++pc; break;
        case multiply: sp--; stack[sp - 1] *= stack[sp]; break;
        case answer: return stack[sp - 1];
        }
}
