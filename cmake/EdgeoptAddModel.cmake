# edgeopt_add_model(<name> DEVICE <device> [MODEL <onnx file>] [OPTIONS <option>...])
#
# Compiles a network with edgeopt while CMake configures, and adds it to the build as the library
# edgeopt::<name>. It is compiled again only when the model, an option or edgeopt itself changed.
#
#   list(APPEND CMAKE_MODULE_PATH <folder of this file>)
#   include(EdgeoptAddModel)
#   edgeopt_add_model(classifier DEVICE rpi4 MODEL classifier.onnx OPTIONS --precision int8)
#   target_link_libraries(app PRIVATE edgeopt::classifier)
#
# OPTIONS are those of `edgeopt compile`. EDGEOPT_EXECUTABLE names the program if it is not on the
# path. <name> is the prefix of the generated C: letters, digits and underscores, a letter first.
cmake_minimum_required(VERSION 3.16)

function(edgeopt_add_model name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "DEVICE;MODEL" "OPTIONS")
  if(arg_UNPARSED_ARGUMENTS OR NOT arg_DEVICE)
    message(FATAL_ERROR "edgeopt_add_model(<name> DEVICE <device> [MODEL <file>] [OPTIONS ...])")
  endif()
  if(NOT name MATCHES "^[A-Za-z][A-Za-z0-9_]*$")
    message(FATAL_ERROR "edgeopt_add_model: ${name} is not a C identifier")
  endif()
  find_program(EDGEOPT_EXECUTABLE edgeopt DOC "edgeopt's command line program")
  if(NOT EDGEOPT_EXECUTABLE)
    message(FATAL_ERROR
      "edgeopt is missing: pip install edgeopt, or pass -DEDGEOPT_EXECUTABLE=<path>")
  endif()

  set(out ${CMAKE_CURRENT_BINARY_DIR}/${name})
  set(stamp ${out}.stamp)
  execute_process(COMMAND ${EDGEOPT_EXECUTABLE} --version
    OUTPUT_VARIABLE version RESULT_VARIABLE code)
  if(NOT code EQUAL 0)
    message(FATAL_ERROR "${EDGEOPT_EXECUTABLE} does not run")
  endif()
  set(command compile)
  set(model_digest "")
  if(arg_MODEL)
    get_filename_component(model ${arg_MODEL} ABSOLUTE)
    if(NOT EXISTS ${model})
      message(FATAL_ERROR "edgeopt_add_model: no such model: ${model}")
    endif()
    set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${model})
    file(SHA256 ${model} model_digest)
    list(APPEND command ${model})
  endif()
  list(APPEND command --device ${arg_DEVICE} --name ${name} ${arg_OPTIONS})

  set(wanted "${version}${command}\n${model_digest}\n")
  set(made "")
  if(EXISTS ${stamp})
    file(READ ${stamp} made)
  endif()
  if(NOT made STREQUAL wanted OR NOT EXISTS ${out}/CMakeLists.txt)
    file(REMOVE ${stamp})
    message(STATUS "edgeopt: compiling ${name} for ${arg_DEVICE}")
    execute_process(COMMAND ${EDGEOPT_EXECUTABLE} ${command} -o ${out} --force
      RESULT_VARIABLE code)
    if(NOT code EQUAL 0)
      message(FATAL_ERROR "edgeopt could not compile ${name} (exit status ${code})")
    endif()
    file(WRITE ${stamp} "${wanted}")
  endif()
  add_subdirectory(${out} ${out}.build)
endfunction()
