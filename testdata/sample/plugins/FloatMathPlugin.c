#include <math.h>
#include "plugin.h"

PLUGIN(FloatMathPlugin, primitiveHypot)
{
    volatile double a = 3, b = 4;
    return lround(hypot(a, b));
}
