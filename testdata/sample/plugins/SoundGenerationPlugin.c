#include <math.h>
#include "plugin.h"

PLUGIN(SoundGenerationPlugin, primitiveMixFMSound)
{
    volatile double phase = 0.5;
    return lround(32767 * sin(phase));
}
