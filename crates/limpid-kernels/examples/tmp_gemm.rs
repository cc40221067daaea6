//! tmp
#![allow(missing_docs, unsafe_code, clippy::all)]
use std::time::Instant;
fn g(m:usize,n:usize,k:usize,bt:bool)->f64{
    let a=vec![0.5f32;m*k]; let b=vec![0.5f32;k*n]; let mut c=vec![0f32;m*n];
    let mut best=f64::MAX;
    for _ in 0..20 { let t=Instant::now();
      let reps=(2e8 as usize/(2*m*n*k)).max(1);
      for _ in 0..reps { unsafe{ 
        if bt { gemm::gemm(m,n,k,c.as_mut_ptr(),m as isize,1,false,a.as_ptr(),1,k as isize,b.as_ptr(),k as isize,1,1f32,1f32,false,false,false,gemm::Parallelism::None) }
        else { gemm::gemm(m,n,k,c.as_mut_ptr(),1,n as isize,true,a.as_ptr(),1,k as isize,b.as_ptr(),1,n as isize,1f32,1f32,false,false,false,gemm::Parallelism::None)} } }
      best=best.min(t.elapsed().as_secs_f64()/reps as f64); }
    2.0*(m*n*k) as f64/best/1e9
}
fn main(){
  for (m,n,k) in [(256,256,256),(1024,1024,1024),(64,768,576),(64,768,256),(64,512,256),(64,384,256),(64,256,256),(64,1024,128),(32,768,256),(32,768,288),(128,768,256),(128,512,256),(128,256,256),(512,512,256),(64,768,192),(64,768,128),(64,3072,64),(3,768,256)]{
    println!("{m}x{n}x{k}: {:.1}", g(m,n,k,false)); }
  for (m,n,k) in [(64,256,768),(64,576,768),(32,256,768),(128,256,768),(512,256,512)]{
    println!("wgrad-like (dst col-major, m=features) {m}x{n}x{k}: {:.1}; swapped {:.1}", g(m,n,k,true), g(n,m,k,true)); }
}
