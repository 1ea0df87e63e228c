#include "plugin.h"

PLUGIN(DSAPrims, primitiveHashBlock)
{
    volatile unsigned int word = 0x67452301; /* one rotation of SHA-1 */
    return (word << 5 | word >> 27) == 0xe8a4602c ? 5 : -1;
}
