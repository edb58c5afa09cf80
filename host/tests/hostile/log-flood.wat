  (func (export "assay:plugin/decider@0.1.0#step") (param i32 i32 i32 i32) (result i32)
    (local $i i32)
    (loop
      (call $log (i32.const 1) (i32.const 16) (i32.const 7))
      (br_if 0 (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 1000))))
    (unreachable))
