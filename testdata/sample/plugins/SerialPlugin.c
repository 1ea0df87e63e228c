#include <termios.h>
#include "plugin.h"

PLUGIN(SerialPlugin, primitiveSerialPortOpen)
{
    struct termios port = {0};
    return cfsetospeed(&port, B9600) == 0 && cfgetospeed(&port) == B9600 ? 9600 : -1;
}
