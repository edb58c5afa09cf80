  ;; reads from a resource that was never lent
  (func (export "assay:plugin/scorer@0.1.0#score") (param i32 i32 i32) (result i32)
    (drop (call $rows (i32.const 77) (i32.const 0)))
    (unreachable))
