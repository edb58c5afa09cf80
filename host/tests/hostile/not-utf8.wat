  ;; err(other) with a message that is no text
  (data (i32.const 256) "\01\00\00\00\04\00\00\00\20\01\00\00\02\00\00\00")
  (data (i32.const 288) "\ff\fe")
  (func (export "assay:plugin/decider@0.1.0#step") (param i32 i32 i32 i32) (result i32)
    (i32.const 256))
