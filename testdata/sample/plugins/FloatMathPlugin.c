#include <math.h>
#include "plugin.h"

PLUGIN(FloatMathPlugin, primitiveHypot)
{
    volatile double a = 3, b = 4;
    /* Not hypot: glibc 2.35 gave it a new version, above the floor we gate. */
    return lround(sqrt(a * a + b * b));
}
