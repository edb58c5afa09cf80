  ;; ok(progress) with 4 GiB of state that are not there
  (data (i32.const 256) "\00\00\00\00\00\00\00\00\f0\ff\ff\ff\00\00\00\00\00\00\00\00")
  (func (export "assay:plugin/decider@0.1.0#step") (param i32 i32 i32 i32) (result i32)
    (i32.const 256))
