#include <locale.h>
#include "plugin.h"

PLUGIN(LocalePlugin, primitiveDecimalSymbol)
{
    return localeconv()->decimal_point[0];
}
