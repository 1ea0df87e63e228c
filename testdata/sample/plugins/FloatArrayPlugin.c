#include "plugin.h"

PLUGIN(FloatArrayPlugin, primitiveDotProduct)
{
    volatile float a[] = {1, 2, 3}, b[] = {4, 5, 6};
    float sum = 0;
    for (int i = 0; i < 3; i++)
        sum += a[i] * b[i];
    return (long)sum;
}
