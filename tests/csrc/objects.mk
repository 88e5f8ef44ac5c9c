# Objects of the core in $(BUILD)/<kind>, each with the flags of its instruction set, as setup.py has them. Wants CC, FLAGS, ROOT,
# BUILD and SOURCES; $(call objects,kind) names them.
MACHINE := $(shell $(CC) -dumpmachine)
ifneq (,$(findstring x86_64,$(MACHINE)))
EMULATED := -O0 -fno-sanitize=all -DEIE_EMULATED -I$(ROOT)/tests/csrc/emulated -Wno-psabi
ISA_FLAGS = $(if $(and $(findstring emulated,$(KIND)),$(findstring _avx512,$(1))),$(EMULATED),$(if $(findstring _avx512,$(1)),-mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vbmi -mavx512vnni -mfma,$(if $(findstring _avx2,$(1)),-mavx2 -mfma -mf16c)))
endif
objects = $(patsubst $(ROOT)/csrc/%.c,$(BUILD)/$(1)/%.o,$(SOURCES))
.DEFAULT_GOAL := run

define compile_rule
$(BUILD)/$(1)/%.o: $(ROOT)/csrc/%.c $$(wildcard $(ROOT)/csrc/*/*.h $(ROOT)/csrc/*/*.inc)
	@mkdir -p $$(@D)
	$$(CC) $$(FLAGS) $$(call ISA_FLAGS,$$@) -c $$< -o $$@
endef
$(foreach kind,fuzz address thread neon emulated,$(eval $(call compile_rule,$(kind))))
