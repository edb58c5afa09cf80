  (func $down (param i32) (result i32)
    (i32.add (i32.const 1) (call $down (i32.add (local.get 0) (i32.const 1)))))
  (func (export "assay:plugin/decider@0.1.0#step") (param i32 i32 i32 i32) (result i32)
    (call $down (i32.const 0)))
