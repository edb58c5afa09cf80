  ;; ok(progress) with 16 MiB of state that are really there
  (data (i32.const 256) "\00\00\00\00\00\00\00\00\00\00\00\01\00\00\00\00\00\00\00\00")
  (func (export "assay:plugin/decider@0.1.0#step") (param i32 i32 i32 i32) (result i32)
    (drop (memory.grow (i32.const 300)))
    (i32.const 256))
