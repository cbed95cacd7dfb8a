//! Whether objects can be read, and which of their fields have no effect here.

use tombolo_crds::mesh_config::MeshConfig;
use tombolo_crds::{document, validity};

use crate::analyze::message::{Level, Message};
use crate::analyze::world::World;

/// IST0106 and IST0133: the same reading as that of the validation webhook.
pub(super) fn schema(world: &World, out: &mut Vec<Message>) {
    mesh_config(world, out);
    let Some(own) = world.clusters.first() else { return };
    for object in &own.objects {
        match validity::of(object.value()) {
            None => (),
            Some(Err(error)) => {
                let text = format!("it cannot be read: spec: {error}");
                out.push(Message::about(object, Level::Error, "IST0106", text));
            }
            Some(Ok(warnings)) => {
                for text in warnings {
                    out.push(Message::about(object, Level::Warning, "IST0133", text));
                }
            }
        }
    }
}

fn mesh_config(world: &World, out: &mut Vec<Message>) {
    if world.mesh.is_null() {
        return;
    }
    let mut say = |level, code, text| {
        out.push(Message {
            level,
            code,
            kind: "MeshConfig".to_owned(),
            namespace: Some(world.system.clone()),
            name: "istio".to_owned(),
            reference: String::new(),
            text,
        });
    };
    match document::read::<MeshConfig>(&world.mesh) {
        Err(error) => say(Level::Error, "IST0106", format!("it cannot be read: {error}")),
        Ok(read) => {
            for path in read.unknown {
                let text = format!("{path} has no effect: not implemented");
                say(Level::Warning, "IST0133", text);
            }
        }
    }
}
