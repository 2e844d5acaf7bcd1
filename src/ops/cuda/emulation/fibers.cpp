// Whether this system has what the emulation's fibers are made of.
#include <ucontext.h>

int main() {
    ucontext_t context;
    return getcontext(&context);
}
