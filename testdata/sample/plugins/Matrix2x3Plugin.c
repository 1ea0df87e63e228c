#include "plugin.h"

PLUGIN(Matrix2x3Plugin, primitiveInvertPoint)
{
    const volatile double m[] = {2, 0, 4, 0, 2, 6}; /* x' = 2x + 4 */
    return (long)((24 - m[2]) / m[0]);
}
