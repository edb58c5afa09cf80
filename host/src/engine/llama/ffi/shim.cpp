// Copies llama.cpp's accounting of memory by buffer type into plain records.
//
// The accounting is declared in a header that the engine's build does not install, so it is
// declared here again; both versions are pinned together in Cargo.toml, and a changed name
// fails to link.

#include <cstdint>
#include <cstring>
#include <map>

#include "ggml-backend.h"
#include "llama.h"

struct llama_memory_breakdown_data {
    size_t model;
    size_t context;
    size_t compute;
};

std::map<ggml_backend_buffer_type_t, llama_memory_breakdown_data>
llama_get_memory_breakdown(const struct llama_context * ctx);

struct assayd_memory_record {
    char name[64];
    uint64_t model;
    uint64_t context;
    uint64_t compute;
    uint64_t free;
    bool host;
};

extern "C" int32_t
assayd_memory_breakdown(const struct llama_context * ctx, assayd_memory_record * records, size_t room) {
    try {
        size_t count = 0;
        for (const auto & [type, bytes] : llama_get_memory_breakdown(ctx)) {
            if (count < room) {
                assayd_memory_record & record = records[count];
                std::memset(&record, 0, sizeof(record));
                const char * name = ggml_backend_buft_name(type);
                std::strncpy(record.name, name ? name : "?", sizeof(record.name) - 1);
                record.model = bytes.model;
                record.context = bytes.context;
                record.compute = bytes.compute;
                record.host = ggml_backend_buft_is_host(type);
                // Where there is no one device behind it, nothing is known to be free.
                if (ggml_backend_dev_t device = ggml_backend_buft_get_device(type)) {
                    size_t free = 0, total = 0;
                    ggml_backend_dev_memory(device, &free, &total);
                    record.free = free;
                }
            }
            ++count;
        }
        return (int32_t) count;
    } catch (...) {
        return -1;
    }
}
