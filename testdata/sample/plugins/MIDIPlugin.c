#include "plugin.h"

PLUGIN(MIDIPlugin, primitiveMIDIGetPortCount)
{
    return 0;
}
